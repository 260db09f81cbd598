"""Batched scoring: negative log-probabilities of many windows, bit-exact in any combination.

Windows of any length are laid end to end into passes of a fixed number of tokens, with next to no
padding. The linear layers see the whole pass, attention runs per window (``varlen``)::

    pass 1   [ window 7                ][ window 2      ][ 5 ][ fill ]
    pass 2   [ window 1                       ][ window 4     ][ fill ]

All matrix products have one shape, so in fp32 a window's numbers do not depend, to the last bit, on
what else is scored, in which order or how much of it. (BLAS libraries block products of other
shapes in other ways, which changes the last digits.) The output head runs at scored positions only,
256 at a time, so memory does not grow with vocabulary × length.

Models whose attention can't be run per window get a mask that keeps the windows of a pass apart.
Trade-off: T² booleans, and last digits that depend on the place in the pass.

Several processes plan the same passes and take every n-th each. Trade-off: every process cuts all
texts into windows.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..console import CountCallback
from ..data.rows.packing import IGNORE
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..models.attention import packed_inputs
from ..models.loaded_model import LoadedModel
from ..models.scoring import body_and_head, head_nll
from .windows import Window

PASS = 1024
"""Tokens per pass on a processor: enough for matrix products at full speed."""

PASS_ON_GPU = 8192
_CHUNK = 256
_NAME = "cwgpt_windows"
Nll = npt.NDArray[np.float64]
Score = Callable[[Sequence[Window]], list[Nll]]

# Whether a model's attention can be run per window, tried once per process.
_TRIED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def windows_nll(
    model: LoadedModel,
    windows: Sequence[Window],
    *,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> list[Nll]:
    """The negative log-probabilities of every window's targets.

    Args:
        model: In the mode it is in; its adapter is active unless called within ``model.base()``.
        windows: Each at most as long as the model's context.
        group: The processes that share the work; each passes all windows and gets all results.
        progress: Called with (windows done, windows in all) of this process's share.

    Returns:
        For each window, [tokens] nats, 0 where there is no target.

    Raises:
        InputError: The model can't be scored, or a process has other windows than the first.
    """
    if not windows and group.size == 1:
        return []
    with group.share_errors():
        passes, score, way = _plan(model, windows)
    group.assert_same(lambda: _digest(windows, way), "tokens to score")
    result = [np.zeros(len(window.inputs)) for window in windows]
    mine = passes[group.rank :: group.size]
    done, total = 0, sum(map(len, mine))
    with group.share_errors():
        for indices in mine:
            for index, nll in zip(indices, score([windows[i] for i in indices]), strict=True):
                result[index] = nll
            done += len(indices)
            if progress is not None:
                progress(done, total)
    if group.size == 1:
        return result
    ends = np.cumsum([len(window.inputs) for window in windows], dtype=np.int64)
    return np.split(group.all_reduce(np.concatenate([np.zeros(0), *result])), ends)[: len(windows)]


def _plan(model: LoadedModel, windows: Sequence[Window]) -> tuple[list[list[int]], Score, str]:
    """Window indices of each pass, the function that scores a pass, and the name of the way."""
    if not windows:
        return [], lambda _: [], ""
    lengths = [len(window.inputs) for window in windows]
    body, weight, bias = body_and_head(model.model)
    varlen = supports_varlen(model, body)
    fixed = PASS_ON_GPU if varlen and model.device.torch_device.type != "cpu" else PASS
    size = max(fixed, min(model.context_length, max(lengths)))
    if model.device.precision == "bf16":
        weight = weight.to(torch.bfloat16)
    head = functools.partial(head_nll, weight=weight, bias=bias, chunk=_CHUNK)
    score = functools.partial(_score_pass, model, size, varlen, body, head)
    return plan_passes(lengths, size), score, f"passes of {size}{'' if varlen else ', masked'}"


def _digest(windows: Sequence[Window], way: str) -> str:
    """SHA-1 of all that is read and scored, and of how."""
    content = hashlib.sha1(way.encode(), usedforsecurity=False)
    for window in windows:
        content.update(len(window.inputs).to_bytes(8, "little"))
        content.update(window.inputs.tobytes() + window.targets.tobytes())
    return content.hexdigest()


def plan_passes(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Best-fit decreasing bin packing of windows into passes of ``size`` tokens.

    Args:
        lengths: Of the windows, each at most ``size``.
        size: Tokens per pass.

    Returns:
        The window indices of each pass.
    """
    passes: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        room = min((room for room in by_room if room >= length), default=None)
        if room is None:
            passes.append([])
            place, room = len(passes) - 1, size
        else:
            place = by_room[room].pop()
            if not by_room[room]:
                del by_room[room]
        passes[place].append(index)
        if room > length:
            by_room.setdefault(room - length, []).append(place)
    return passes


def _score_pass(
    model: LoadedModel,
    size: int,
    varlen: bool,
    body: Callable[..., Tensor],
    head: Callable[[Tensor, Tensor], Tensor],
    windows: Sequence[Window],
) -> list[Nll]:
    """Score windows that fit into one pass of ``size`` tokens together."""
    lengths = [len(window.inputs) for window in windows]
    fill = size - sum(lengths)
    ids = np.concatenate([*(w.inputs for w in windows), np.full(fill, model.eos_id)])
    targets = np.concatenate([*(w.targets for w in windows), np.full(fill, IGNORE)])
    fills = [model.context_length] * (fill // model.context_length) + [fill % model.context_length]
    places = np.flatnonzero(targets != IGNORE)
    # Whole chunks only, so that the head's product has always the same shape too.
    padding = (0, -len(places) % _CHUNK)
    device = model.device.torch_device
    with torch.no_grad(), model.device.autocast():
        states = _hidden_states(model, varlen, body, ids, [n for n in (*lengths, *fills) if n])
        nll = head(
            states[torch.as_tensor(np.pad(places, padding)).to(device)],
            torch.as_tensor(np.pad(targets[places], padding)).to(device),
        )
    values = np.zeros(size)
    values[places] = nll[: len(places)].cpu().numpy()
    return np.split(values, np.cumsum(lengths))[: len(lengths)]


def _hidden_states(
    model: LoadedModel,
    varlen: bool,
    body: Callable[..., Tensor],
    ids: npt.NDArray[np.int64],
    lengths: list[int],
) -> Tensor:
    """Hidden states [tokens, width] of windows laid end to end."""
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    inputs, segment_ids, position_ids = (
        torch.as_tensor(array)[None].to(model.device.torch_device)
        for array in (ids, segments, positions)
    )
    if not varlen:
        return body(input_ids=inputs, **packed_inputs(segment_ids, position_ids, model.model))[0]
    with _varlen_attention(model):
        return body(
            input_ids=inputs,
            position_ids=position_ids,
            attention_mask=None,
            use_cache=False,
            window_lengths=lengths,
        )[0]


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    window_lengths: Sequence[int] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each window, with the signature that transformers calls.

    Each window is copied to memory of its own, so that its numbers don't depend on its place in the
    pass.

    Args:
        module: Not used, nor is ``attention_mask``.
        query: [1, heads, tokens, size].
        key: [1, key heads, tokens, size]; ``heads`` is a multiple of the key heads.
        value: The same shape.
        attention_mask: None.
        scaling: Factor of the scores; 1 / √size without it.
        window_lengths: Tokens of each window.

    Returns:
        [1, tokens, heads, size], and no weights.
    """
    parts = (torch.split(part, list(window_lengths), dim=2) for part in (query, key, value))
    results = [
        F.scaled_dot_product_attention(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] > key.shape[1],
        ).transpose(1, 2)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(results, dim=1), None


@contextlib.contextmanager
def _varlen_attention(model: LoadedModel) -> Iterator[None]:
    """Run the block with attention per window."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    config = model.bare.config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def supports_varlen(model: LoadedModel, body: Callable[..., Tensor]) -> bool:
    """Whether attention per window gives this model's numbers: tried once, on eight tokens."""
    if model.bare not in _TRIED:
        _TRIED[model.bare] = _try_varlen(model, body)
    return _TRIED[model.bare]


def _try_varlen(model: LoadedModel, body: Callable[..., Tensor]) -> bool:
    if getattr(model.bare.config, "sliding_window", None) is not None:
        return False
    ids = np.arange(1, 9) % model.bare.get_input_embeddings().weight.shape[0]
    device = model.device.torch_device
    with torch.no_grad():
        wanted = torch.cat([
            body(input_ids=torch.as_tensor(part)[None].to(device), use_cache=False)[0]
            for part in (ids[:3], ids[3:])
        ])  # fmt: skip
        try:
            found = _hidden_states(model, True, body, ids, [3, 5])
        except (TypeError, ValueError, KeyError):
            return False
    return bool((found - wanted).abs().max() <= 3e-4 * wanted.abs().max())
