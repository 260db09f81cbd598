"""The real starter on real text: the fast way writes from the same distribution, and repeatably."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import Quality, compare, show

from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode
from creativewritinggpt.models.forward import backends, linear
from creativewritinggpt.models.forward.onnx_int8 import onnx_available

pytestmark = [pytest.mark.realdata, pytest.mark.network, pytest.mark.slow]
BY_ONNXRUNTIME = [
    pytest.param(kind, marks=pytest.mark.skipif(not onnx_available(), reason="needs onnxruntime"))
    for kind in ("onnx",)
]
PROMPT = "In a world where magic was forbidden,"


@pytest.fixture(scope="module")
def starter() -> Any:
    """The starter from the user's own cache; it is fetched where it is not there."""
    from creativewritinggpt.models.loading import load_model

    return load_model("starter")


def _stories(real_data: Path, count: int) -> list[str]:
    with (real_data / "writingprompts" / "hub_form.jsonl").open(encoding="utf-8") as stream:
        return [json.loads(next(stream))["story"] for _ in range(count)]


def _close(result: Quality) -> None:
    """Within a percent of the perplexity, as far as so few words can tell."""
    show([result])
    assert abs(result.perplexity_change) < 0.01 + 2 * result.standard_error
    assert result.standard_error < 0.009
    assert result.top1_agreement > 0.9


@pytest.mark.parametrize("weights", ["int8", "bf16", *BY_ONNXRUNTIME])
def test_fast_weights_stay_within_a_percent_of_the_perplexity(
    starter: Any, real_data: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    # Which format prompts are read in is measured, and may be another one next time.
    monkeypatch.setattr(linear, "prefill_format", lambda: "fp32")
    monkeypatch.setattr(backends, "kept_backends", weakref.WeakKeyDictionary())
    result = compare(starter, _stories(real_data, 6), weights, tokens=80)
    assert result.tokens == 6 * 64
    assert result.mean_kl < (0.003 if weights == "bf16" else 0.01)
    _close(result)


def test_a_prompt_read_in_int8_stays_within_a_percent_of_the_perplexity(
    starter: Any, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "prefill_format", lambda: "int8")
    monkeypatch.setattr(backends, "kept_backends", weakref.WeakKeyDictionary())
    result = compare(starter, _stories(real_data, 8), "int8", tokens=400, prompt=304)
    assert result.tokens > 500
    assert result.mean_kl < 0.012
    _close(result)


def test_greedy_text_in_fp32_is_that_of_transformers(starter: Any) -> None:
    ids = torch.tensor([[starter.bos_id, *encode(starter.tokenizer, PROMPT)]])
    theirs = starter.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=24,
        pad_token_id=starter.eos_id,
    )[0, ids.shape[1] :]
    settings = GenerationSettings(
        temperature=0, repetition_penalty=1.0, max_new_tokens=24, weights="fp32"
    )
    [ours] = write(starter, PROMPT, settings)
    assert [token.id for token in ours.tokens] == theirs.tolist()


@pytest.mark.parametrize("weights", ["int8", *BY_ONNXRUNTIME])
def test_text_in_8_bits_is_the_same_alone_and_among_others(starter: Any, weights: str) -> None:
    settings = GenerationSettings(max_new_tokens=24, seed=5, weights=weights)
    together = write(starter, PROMPT, settings, n=4)
    assert len({text.text for text in together}) == 4
    for text in together[::3]:
        [alone] = write(starter, PROMPT, settings.changed({"seed": text.seed}))
        assert [token.id for token in alone.tokens] == [token.id for token in text.tokens]
