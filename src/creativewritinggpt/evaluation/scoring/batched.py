"""Windows through the model: many short ones at once, and each with the same numbers every time.

Windows of any length are laid end to end into passes of a fixed number of tokens, without padding
to speak of. The matrix products see the whole pass, the attention each window by itself::

    pass 1   [ window 7                ][ window 2      ][ 5 ][ fill ]
    pass 2   [ window 1                       ][ window 4     ][ fill ]

All passes have one shape, and so have all products, whichever windows share them. A window's
numbers therefore do not depend, to the last bit in fp32, on what else is scored, in which order or
how much of it: libraries of linear algebra cut products of other shapes in other ways, which
changes the last digits. The output head runs at scored positions only, a few hundred at a time,
so that memory does not grow with vocabulary times length.

On a processor the families that our own forward pass knows take :mod:`.native`, of which this is
the plain twin. Models whose attention does more than the common kind take the way of
:mod:`.padded`.

Several processes share out whole passes, which all of them plan alike: a pass is the same work with
the same numbers whoever does it. The price is that every process cuts all texts into windows.
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

from ...console import CountCallback
from ...data.rows.packing import IGNORE
from ...models.loaded_model import LoadedModel
from ...models.scoring import body_and_head, head_nll
from ...processes import ALONE, Processes
from .native import forward_for, score_natively
from .padded import plan_rows, score_rows
from .varlen_attention import attend_apart
from .windows import Window

PASS = 1024
"""Tokens in a pass on a processor: as many as a product needs to run at full speed."""

PASS_ON_GPU = 8192
_CHUNK = 256
_NAME = "cwgpt_windows"
Nll = npt.NDArray[np.float64]

# Whether a model's attention can be run window by window, tried once in this process.
_TRIED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def windows_nll(
    writer: LoadedModel,
    windows: Sequence[Window],
    *,
    team: Processes = ALONE,
    progress: CountCallback | None = None,
) -> list[Nll]:
    """The negative log-probabilities of every window's targets, in the mode the model is in.

    Args:
        writer: The model; its adapter works unless this is called within ``writer.base()``.
        windows: Of at most the model's context window each.
        team: The processes that share the work; each gives all the windows and gets all numbers.
        progress: Called with (windows done, windows in all) of this process's share.

    Returns:
        For each window, [tokens] nats, 0 where there is no target.

    Raises:
        InputError: The model can't be used so, or a process has other windows than the first.
    """
    if not windows and team.size == 1:
        return []
    with team.agreed():
        passes, score, way = _planned(writer, windows)
    team.alike(lambda: _digest(windows, way), "tokens to score")
    result = [np.zeros(len(window.inputs)) for window in windows]
    mine = passes[team.rank :: team.size]
    done, total = 0, sum(map(len, mine))
    with team.agreed():
        for taken in mine:
            for index, found in zip(taken, score([windows[i] for i in taken]), strict=True):
                result[index] = found
            done += len(taken)
            if progress is not None:
                progress(done, total)
    if team.size == 1:
        return result
    ends = np.cumsum([len(window.inputs) for window in windows], dtype=np.int64)
    return np.split(team.added(np.concatenate([np.zeros(0), *result])), ends)[: len(windows)]


def _planned(
    writer: LoadedModel, windows: Sequence[Window]
) -> tuple[list[list[int]], Callable[[Sequence[Window]], list[Nll]], str]:
    """The numbers of the windows of each pass, what scores a pass, and the name of the way."""
    if not windows:
        return [], lambda _: [], ""
    lengths = [len(window.inputs) for window in windows]
    fixed = PASS if writer.device.torch_device.type == "cpu" else PASS_ON_GPU
    size = max(fixed, min(writer.window, max(lengths)))
    forward = forward_for(writer)
    if forward is not None:
        score = functools.partial(score_natively, forward, writer.eos_id, writer.window)
        return list(plan_passes(lengths, size)), score, f"our own passes of {size}"
    body, weight, bias = body_and_head(writer.model)
    if not _can_part(writer, body):
        return list(plan_rows(lengths)), functools.partial(score_rows, writer), "rows"
    if writer.device.precision == "bf16":
        weight = weight.to(torch.bfloat16)
    score = functools.partial(_one_pass, writer, size=size, body=body, weight=weight, bias=bias)
    return list(plan_passes(lengths, size)), score, f"passes of {size}"


def _digest(windows: Sequence[Window], way: str) -> str:
    """SHA-1 of all that is read and scored, and of how."""
    content = hashlib.sha1(way.encode(), usedforsecurity=False)
    for window in windows:
        content.update(len(window.inputs).to_bytes(8, "little"))
        content.update(window.inputs.tobytes() + window.targets.tobytes())
    return content.hexdigest()


def plan_passes(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Lay pieces into passes of ``size`` tokens, the longest first, each where it fits best.

    Args:
        lengths: Of the pieces, each at most ``size``.
        size: Tokens in a pass.

    Yields:
        The numbers of the pieces of each pass.
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
    yield from passes


def _one_pass(
    writer: LoadedModel,
    windows: Sequence[Window],
    *,
    size: int,
    body: Callable[..., Tensor],
    weight: Tensor,
    bias: Tensor | None,
) -> list[Nll]:
    """Score windows that fit into one pass together."""
    lengths = [len(window.inputs) for window in windows]
    fill = size - sum(lengths)
    ids = np.concatenate([*(w.inputs for w in windows), np.full(fill, writer.eos_id)])
    targets = np.concatenate([*(w.targets for w in windows), np.full(fill, IGNORE)])
    places = np.flatnonzero(targets != IGNORE)
    # Whole chunks only, so that the head's product too has always the same shape.
    extra = -len(places) % _CHUNK
    read = np.concatenate([places, np.zeros(extra, dtype=np.int64)])
    wanted = np.concatenate([targets[places], np.zeros(extra, dtype=np.int64)])
    device = writer.device.torch_device
    with torch.no_grad(), writer.device.autocast(), _parted(writer):
        states = _states(writer, body, ids, lengths, fill)
        nll = head_nll(
            states[torch.as_tensor(read).to(device)],
            torch.as_tensor(wanted).to(device),
            weight,
            bias,
            chunk=_CHUNK,
        )
    values = np.zeros(size)
    values[places] = nll[: len(places)].cpu().numpy()
    ends = np.cumsum(lengths)
    return [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _states(
    writer: LoadedModel, body: Callable[..., Tensor], ids: Any, lengths: list[int], fill: int
) -> Tensor:
    """The body's hidden states, [tokens, width], for windows laid end to end."""
    device = writer.device.torch_device
    parts = [*lengths, *([min(fill, writer.window)] * (fill // writer.window))]
    if sum(parts) < len(ids):
        parts.append(len(ids) - sum(parts))
    positions = np.concatenate([np.arange(part) for part in parts])
    return body(
        input_ids=torch.as_tensor(ids)[None].to(device),
        position_ids=torch.as_tensor(positions)[None].to(device),
        attention_mask=None,
        use_cache=False,
        window_lengths=parts,
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
    """Attention within each window; ``[1, heads, tokens, size]``, as transformers calls it."""
    return attend_apart(query, key, value, window_lengths, scaling), None


@contextlib.contextmanager
def _parted(writer: LoadedModel) -> Iterator[None]:
    """Run the block with attention window by window."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    config = writer.bare.config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _can_part(writer: LoadedModel, body: Callable[..., Tensor]) -> bool:
    """Whether attention window by window gives this model's numbers: tried on eight tokens."""
    model = writer.bare
    if model not in _TRIED:
        _TRIED[model] = _tried(writer, body)
    return _TRIED[model]


def _tried(writer: LoadedModel, body: Callable[..., Tensor]) -> bool:
    config = writer.bare.config
    if getattr(config, "sliding_window", None) is not None:
        return False
    vocabulary = writer.bare.get_input_embeddings().weight.shape[0]
    ids = np.arange(1, 9) % vocabulary
    device = writer.device.torch_device
    with torch.no_grad():
        alone = [
            body(input_ids=torch.as_tensor(part)[None].to(device), use_cache=False)[0]
            for part in (ids[:3], ids[3:])
        ]
        try:
            with _parted(writer):
                found = _states(writer, body, ids, [3, 5], 0)
        except (TypeError, ValueError, KeyError):
            return False
    wanted = torch.cat(alone)
    return bool((found - wanted).abs().max() <= 3e-4 * wanted.abs().max())
