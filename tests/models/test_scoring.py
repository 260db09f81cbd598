"""Scores of given tokens equal the plain cross-entropy, however they are batched."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError
from creativewritinggpt.models import scoring
from creativewritinggpt.models.attention import packed_inputs
from creativewritinggpt.models.loaded_model import LoadedModel
from creativewritinggpt.models.scoring import IGNORE, body_and_head, token_nll

FAMILIES = ("gpt2", "llama", "qwen")


def writer_of(model: Any, precision: str = "fp32") -> LoadedModel:
    return LoadedModel(
        model=model,
        tokenizer=None,
        device=choose("cpu", precision),
        name="tiny",
        base_name="tiny",
        kind="folder",
        revision=None,
        adapter=None,
        run=None,
        bos_id=0,
        eos_id=0,
        context_length=128,
    )


def random_rows(seed: int, rows: int = 5, tokens: int = 24) -> Any:
    """Packed rows of random documents with padding at the end and some targets masked."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 384, (rows, tokens))
    segments = np.zeros((rows, tokens), dtype=np.int32)
    positions = np.zeros((rows, tokens), dtype=np.int64)
    targets = np.full((rows, tokens), IGNORE, dtype=np.int64)
    for index in range(rows):
        start, segment = 0, 1
        while start < tokens - 4 and segment < 4:
            end = min(tokens, start + int(rng.integers(2, 12)))
            segments[index, start:end] = segment
            positions[index, start:end] = np.arange(end - start)
            targets[index, start:end] = rng.integers(0, 384, end - start)
            start, segment = end, segment + 1
        targets[index, rng.random(tokens) < 0.2] = IGNORE
    return types.SimpleNamespace(
        input_ids=ids, targets=targets, position_ids=positions, segment_ids=segments
    )


def plain_nll(model: Any, rows: Any) -> np.ndarray:
    segments, positions = torch.tensor(rows.segment_ids), torch.tensor(rows.position_ids)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(rows.input_ids), **packed_inputs(segments, positions, model)
        ).logits
    targets = torch.tensor(rows.targets)
    nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORE)
    return nll.numpy()


@pytest.mark.invariant
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_plain_cross_entropy(family: str, tiny_model: Any) -> None:
    model, rows = tiny_model(family), random_rows(1)
    scores = token_nll(writer_of(model), rows, batch_size=2)
    assert scores.dtype == np.float64
    assert (scores[rows.targets == IGNORE] == 0).all()
    np.testing.assert_allclose(scores, plain_nll(model, rows), atol=1e-5)


@pytest.mark.invariant
@given(batch_size=st.integers(1, 7), chunk=st.integers(1, 40), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=15)
def test_batch_and_chunk_size_do_not_change_the_scores(
    batch_size: int, chunk: int, seed: int, tiny_model: Any
) -> None:
    rows, writer = random_rows(seed), writer_of(tiny_model("llama"))
    whole = token_nll(writer, rows, batch_size=5)
    before = scoring.CHUNK
    scoring.CHUNK = chunk
    try:
        np.testing.assert_allclose(token_nll(writer, rows, batch_size), whole, atol=1e-5)
    finally:
        scoring.CHUNK = before


def test_rows_without_targets_score_nothing(tiny_model: Any) -> None:
    rows = random_rows(0)
    rows.targets[:] = IGNORE
    assert not token_nll(writer_of(tiny_model("gpt2")), rows).any()


def test_progress_counts_the_rows(tiny_model: Any) -> None:
    seen: list[int] = []
    token_nll(writer_of(tiny_model("gpt2")), random_rows(0), batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]


def test_an_adapter_is_scored_and_can_be_switched_off(tiny_model: Any) -> None:
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    rows, writer = random_rows(2), writer_of(tiny_model("gpt2"))
    base = token_nll(writer, rows)
    attach(writer, Config())
    assert np.array_equal(token_nll(writer, rows), base)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    writer.model.eval()
    assert not np.allclose(token_nll(writer, rows), base)
    with writer.base():
        assert np.array_equal(token_nll(writer, rows), base)
    np.testing.assert_allclose(token_nll(writer, rows), plain_nll(writer.model, rows), atol=1e-5)


def test_bf16_scores_stay_near_fp32(tiny_model: Any) -> None:
    rows, model = random_rows(3), tiny_model("llama")
    exact = token_nll(writer_of(model), rows)
    rough = token_nll(writer_of(model, "bf16"), rows)
    assert 0 < np.abs(exact - rough).max() < 0.5
    assert abs(exact.sum() - rough.sum()) < 0.01 * exact.sum()


def small(**changes: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return {**sizes, **changes}


def test_models_that_change_their_logits_in_an_unknown_way_are_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    plain = model.forward

    def squared(**inputs: Any) -> Any:
        found = plain(**inputs)
        found.logits = found.logits.square()
        return found

    model.forward = squared
    with pytest.raises(InputError, match="LlamaForCausalLM does more after its body"):
        body_and_head(model)


def test_models_that_keep_a_state_or_look_ahead_are_refused(tiny_model: Any) -> None:
    from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

    with pytest.raises(InputError, match="MambaForCausalLM .mamba. keeps a recurrent state"):
        body_and_head(MambaForCausalLM(MambaConfig(**small())))
    with pytest.raises(InputError, match="BertLMHeadModel .bert. fills gaps in texts"):
        body_and_head(BertLMHeadModel(BertConfig(**small())))


def test_trying_a_model_leaves_its_modes_alone(tiny_model: Any) -> None:
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    body_and_head(model)
    assert [module.training for module in model.modules()] == before
