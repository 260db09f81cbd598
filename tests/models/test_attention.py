"""Rule 2: packed documents neither see each other nor change each other's loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from creativewritinggpt.errors import InputError
from creativewritinggpt.models import attention as attention_module
from creativewritinggpt.models.attention import packed_inputs

FAMILIES = ("gpt2", "llama", "qwen")
ATTENTIONS = ("sdpa", "eager")


def row(lengths: list[int], padding: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random documents of these lengths in one row, with padding at its end."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    ids = torch.randint(1, 384, (1, total), generator=generator)
    segments = torch.cat([torch.full((n,), i + 1) for i, n in enumerate(lengths)])[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    blank = torch.zeros(1, padding, dtype=torch.long)
    return tuple(torch.cat([part, blank], dim=1) for part in (ids, segments, positions))


def logits(model: Any, ids: torch.Tensor, segments: Any, positions: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **packed_inputs(segments, positions, model)).logits


def nll_sum(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")


@pytest.mark.invariant
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_loss_equals_separate_loss(family: str, attention: str, tiny_model: Any) -> None:
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    lengths = [11, 7, 19]
    ids, segments, positions = row(lengths, padding=6)
    packed = logits(model, ids, segments, positions)
    assert torch.isfinite(packed).all()
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        with torch.no_grad():
            alone = model(input_ids=ids[:, part], use_cache=False).logits
        difference = nll_sum(packed[:, part], ids[:, part]) - nll_sum(alone, ids[:, part])
        assert abs(float(difference)) < 1e-4 * length / 10
        torch.testing.assert_close(packed[:, part], alone, atol=1e-5, rtol=1e-5)
        start += length


@pytest.mark.invariant
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_document_leaves_the_others_bit_equal(
    family: str, attention: str, tiny_model: Any
) -> None:
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    ids, segments, positions = row([11, 7, 19], padding=6)
    before = logits(model, ids, segments, positions)
    changed = ids.clone()
    changed[0, :11] = (changed[0, :11] + 100) % 384
    after = logits(model, changed, segments, positions)
    assert not torch.equal(before[:, :11], after[:, :11])
    assert torch.equal(before[:, 11:37], after[:, 11:37])


@pytest.mark.invariant
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_later_tokens_never_change_earlier_ones(
    family: str, attention: str, tiny_model: Any
) -> None:
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    ids, segments, positions = row([11, 7], padding=0)
    before = logits(model, ids, segments, positions)
    changed = ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 100) % 384
    after = logits(model, changed, segments, positions)
    assert torch.equal(before[:, :5], after[:, :5])


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_document_need_no_mask_and_give_the_same(
    family: str, attention: str, tiny_model: Any, monkeypatch: Any
) -> None:
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    rows = [row([30], 0), row([17], 13), row([1], 29)]
    ids, segments, positions = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert packed_inputs(segments, positions, model)["attention_mask"] is None
    fast = logits(model, ids, segments, positions)
    monkeypatch.setattr(attention_module, "one_document_per_row", lambda *_: False)
    masked = logits(model, ids, segments, positions)
    assert torch.equal(fast[segments == 1], masked[segments == 1])
    assert torch.isfinite(fast).all()


@pytest.mark.parametrize("lengths", ([5, 9], [1, 1]))
def test_rows_of_several_documents_are_always_masked(lengths: list[int], tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    _, segments, positions = row(lengths, padding=2)
    assert packed_inputs(segments, positions, model)["attention_mask"] is not None
    # One document, but not from its beginning, or with padding before it.
    ones, places = torch.ones(1, 6, dtype=torch.long), torch.arange(6)[None]
    assert packed_inputs(ones, places, model)["attention_mask"] is None
    assert packed_inputs(ones, places + 3, model)["attention_mask"] is not None
    before = torch.tensor([[0, 0, 1, 1, 1, 1]])
    assert packed_inputs(before, places, model)["attention_mask"] is not None


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_row_of_nothing_but_padding_gives_numbers(attention: str, tiny_model: Any) -> None:
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    zeros = torch.zeros(1, 8, dtype=torch.long)
    assert torch.isfinite(logits(model, zeros, zeros, zeros)).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_sliding_window_is_kept_in_packed_rows(attention: str, tiny_model: Any) -> None:
    model = tiny_model("qwen", use_sliding_window=True, sliding_window=6, max_window_layers=1)
    assert set(model.config.layer_types) == {"full_attention", "sliding_attention"}
    model.set_attn_implementation(attention)
    ids, segments, positions = row([20, 9], padding=3)
    packed = logits(model, ids, segments, positions)
    alone = model(input_ids=ids[:, :20], use_cache=False).logits
    torch.testing.assert_close(packed[:, :20], alone, atol=1e-5, rtol=1e-5)


def test_other_attention_implementations_are_refused(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    model.config._attn_implementation = "flash_attention_2"
    one = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(InputError, match="sdpa or eager"):
        packed_inputs(one, one, model)
