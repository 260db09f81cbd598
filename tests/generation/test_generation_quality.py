"""The comparison of a fast backend with float32, and the ranking of alternatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formats import compare, show

from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.results import best, repeated_share
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode
from creativewritinggpt.models.forward.onnx_int8 import onnx_available

TEXTS = ["Once upon a time a king had three daughters and no patience. " * 3, "The lamp " * 20, "x"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_fast_backends_stay_within_a_percent_of_the_perplexity(
    tiny_writer: Any, family: str
) -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1} if family != "gpt2" else {}
    writer = tiny_writer(family, **heads)
    fast = ("onnx",) if onnx_available() else ()
    for weights in ("fp32", "bf16", "int8", *fast):
        result = compare(writer, TEXTS, weights, tokens=80)
        assert abs(result.perplexity_change) < (1e-5 if weights == "fp32" else 0.01), weights
        assert result.mean_kl < (1e-6 if weights == "fp32" else 2e-3)
        assert result.top1_agreement > 0.8


def test_the_exact_perplexity_is_the_models_own(tiny_writer: Any) -> None:
    writer = tiny_writer("gpt2")
    result = compare(writer, TEXTS[:1], "fp32", tokens=60)
    ids = torch.tensor([[writer.bos_id, *encode(writer.tokenizer, TEXTS[0])[:59]]])
    with torch.inference_mode():
        logits = writer.model(ids).logits[0, 15:-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 16:])
    assert result.exact_perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert result.tokens == ids.shape[1] - 16
    assert result.standard_error < 1e-5


def test_the_standard_error_shrinks_with_the_words(tiny_writer: Any) -> None:
    writer = tiny_writer("llama")
    few, many = (compare(writer, TEXTS[:1], "bf16", tokens=tokens) for tokens in (24, 80))
    assert 0 < many.standard_error < few.standard_error < 0.01


def test_a_worse_backend_is_seen(tiny_writer: Any, monkeypatch: Any) -> None:
    from creativewritinggpt.models.forward import linear

    quantize = linear.quantize

    def coarse(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scales, whole = quantize(weight)
        return scales, (whole // 32 * 32).to(torch.int8)

    monkeypatch.setattr(linear, "quantize", coarse)
    result = compare(tiny_writer("llama"), TEXTS, "int8", tokens=80)
    assert result.mean_kl > 0.005 and result.top1_agreement < 1


def test_the_table_names_every_figure(tiny_writer: Any, capsys: Any) -> None:
    show([compare(tiny_writer("gpt2"), TEXTS, "int8", tokens=40)])
    shown = capsys.readouterr().err
    assert "int8" in shown and "mean KL" in shown and "%" in shown


def test_repeated_share_counts_runs_that_came_before() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0
    assert repeated_share([1, 2, 3]) == 0
    assert repeated_share([1] * 10) == pytest.approx(6 / 7)


def test_ranking_prefers_likely_texts_but_not_loops(tiny_writer: Any) -> None:
    import dataclasses

    settings = GenerationSettings(max_new_tokens=20, min_new_tokens=20, seed=1)
    [text] = write(tiny_writer("gpt2"), "The lamp", settings)
    loop = dataclasses.replace(
        text, tokens=[dataclasses.replace(t, id=5, logprob=-0.1) for t in text.tokens]
    )
    empty = dataclasses.replace(text, text=" ", tokens=[])
    assert best([text, loop, empty], 3, "likelihood")[0].tokens == loop.tokens
    ranked = best([loop, text, empty], 3, "varied")
    assert [r.text for r in ranked][-1] == " " and ranked[0].score is not None
    assert ranked[0].score > ranked[1].score or ranked[1].text == " "
