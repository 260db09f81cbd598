"""Attention that keeps packed documents apart.

Several documents share a row; a token may look back within its own document only::

    segment   1 1 2 2 0          1 ■ . . . .
                                 1 ■ ■ . . .
                                 2 . . ■ . .      ■ allowed
                                 2 . . ■ ■ .
                           (pad) 0 . . . . ■

transformers builds such a mask from restarting positions by itself, but only on a path that any
cache or mask switches off in silence; and a boolean mask is right on SDPA but leaks on eager
attention, which adds it as a number. So the mask is made here, in the form that the model's
attention takes. A row of T tokens costs T² booleans; rows of one document each need none, and the
attention's own causal path is faster and gives the same numbers. Models that take no such mask,
as those with ALiBi, read each document in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


def packed_inputs(segment_ids: Tensor, position_ids: Tensor, model: Any) -> dict[str, Any]:
    """Arguments of a forward pass over packed rows, beside ``input_ids``.

    Args:
        segment_ids: ``[rows, tokens]``, which document of its row a token belongs to; 0 = padding.
        position_ids: ``[rows, tokens]``, the position of a token in its document.
        model: The model, or a PEFT wrapper of it.

    Returns:
        ``attention_mask`` (boolean ``[rows, 1, tokens, tokens]``, True = may attend, on SDPA; on
        eager attention floating, 0 or the lowest number; models that mix full and sliding
        attention get one of each; None where every row holds one document and padding at most),
        ``position_ids`` and ``use_cache``.

    Raises:
        InputError: The model runs another attention than SDPA or eager.
    """
    kind = model.config._attn_implementation
    if kind not in ("sdpa", "eager"):
        raise InputError(f"packed rows need sdpa or eager attention, not {kind}")
    tokens = segment_ids.shape[1]
    index = torch.arange(tokens, device=segment_ids.device)
    if one_document_per_row(segment_ids, position_ids, index):
        # Padding comes last, so that causal attention hides it from the document by itself.
        positions = index.expand_as(position_ids)
        return {"attention_mask": None, "position_ids": positions, "use_cache": False}
    distance = index[:, None] - index[None, :]  # [query, key]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]  # [rows, query, key]
    # Padding is a document of its own, so that no position is without anything to attend to.
    full = (same & (distance >= 0))[:, None]
    mask: Any = _as_taken(full, kind, model.dtype)
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < tokens:
        sliding = _as_taken(full & (distance < window), kind, model.dtype)
        layers = set(getattr(model.config, "layer_types", None) or ["sliding_attention"])
        if layers == {"sliding_attention"}:
            mask = sliding
        elif "sliding_attention" in layers:
            mask = {"full_attention": mask, "sliding_attention": sliding}
    return {"attention_mask": mask, "position_ids": position_ids, "use_cache": False}


def one_document_per_row(segment_ids: Tensor, position_ids: Tensor, index: Tensor) -> bool:
    """Whether every row is one document from its first token on, with padding at most after it."""
    inside = segment_ids == 1
    lengths = inside.sum(dim=1, keepdim=True)
    leading = index < lengths  # [rows, tokens]
    whole = (segment_ids == leading.to(segment_ids.dtype)).all()
    return bool(whole & (~inside | (position_ids == index)).all())


def _as_taken(allowed: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """A mask as the attention implementation takes it."""
    if kind == "sdpa":
        return allowed
    blocked = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)


def by_document(body: Callable[..., Tensor], ids: Tensor, segment_ids: Tensor) -> Tensor:
    """Hidden states of packed rows, each document read in a row of its own.

    Trade-off: documents of a pass are padded to the longest of them; passes hold documents of
    similar length and no more tokens than the rows.

    Args:
        body: Of a causal model, to be called with ``input_ids``.
        ids: ``[rows, tokens]``.
        segment_ids: ``[rows, tokens]``; 0 = padding.

    Returns:
        ``[rows, tokens, width]``, 0 at padding.
    """
    new = torch.ones_like(segment_ids, dtype=torch.bool)
    new[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = new.flatten().nonzero().flatten()  # of the runs of one segment, in the flat rows
    ends = torch.cat([starts[1:], starts.new_tensor([ids.numel()])])
    inside = (segment_ids.flatten()[starts] != 0).tolist()
    runs = zip(starts.tolist(), ends.tolist(), inside, strict=True)
    spans = sorted(((s, e) for s, e, kept in runs if kept), key=lambda span: span[0] - span[1])
    states, places, flat = [], [], ids.flatten()
    while spans:
        longest = spans[0][1] - spans[0][0]
        count = max(1, ids.numel() // longest)
        part, spans = spans[:count], spans[count:]
        rows = ids.new_zeros(len(part), longest)
        for row, (start, end) in zip(rows, part, strict=True):
            row[: end - start] = flat[start:end]
        found = body(input_ids=rows, use_cache=False)
        for row, (start, end) in zip(found, part, strict=True):
            states.append(row[: end - start])
            places.append(torch.arange(start, end, device=ids.device))
    if not states:
        return body(input_ids=ids, use_cache=False) * 0
    together = torch.cat(states)
    result = together.new_zeros(ids.numel(), together.shape[1])
    return result.index_copy(0, torch.cat(places), together).view(*ids.shape, -1)
