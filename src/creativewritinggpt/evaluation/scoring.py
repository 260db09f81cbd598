"""Scores of documents: negative log-probabilities of every token, in windows, in batched passes.

**Windows.** A document of any length is cut so that every token is scored exactly once, by the
convention of lm-evaluation-harness (``get_rolling_token_windows`` with ``context_len=1``): an
end-of-text token stands before the document, so its first token is scored too; windows overlap by
one token, and the last one is extended to the left, so that its tokens have as much context as the
model takes. Longer overlaps give lower perplexities at a higher cost, so figures are comparable
only with the same window. The end-of-text token after the document is scored too but reported
apart: a tuned model learns within minutes that stories end, and would be flattered by it.

**Passes.** Windows are laid end to end into passes of a fixed number of tokens, with next to no
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
import dataclasses
import functools
import hashlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..console import CountCallback
from ..data.document import SEPARATOR, Document
from ..data.rows.packing import IGNORE, tokenize
from ..data.text import count_words
from ..devices import is_out_of_memory
from ..distributed import SINGLE_PROCESS, ProcessGroup
from ..errors import InputError
from ..models.loaded_model import LoadedModel
from ..models.scoring import Body, body_and_head, head_nll

WINDOW = 1024
"""Context of the headline figures: GPT-2's whole context, and the same for models with more."""

LEGACY_TOKENS = 512
"""Tokens that the original project read of a document."""

PASS = 1024
"""Tokens per pass on a processor: enough for matrix products at full speed."""

PASS_ON_GPU = 8192
_CHUNK = 256
_NAME = "cwgpt_windows"
# What some families ask of attention beside the usual: see transformers' integrations.
_MORE_THAN_ATTENTION = ("softcap", "s_aux", "sliding_window", "position_bias")
Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of text that the model reads at once.

    Attributes:
        document: Index of the document.
        inputs: Token ids that the model reads, [tokens].
        targets: Token to be predicted at each of them, IGNORE where it is only context, [tokens].
        end: Index of the position that predicts the end of the text, or -1.
    """

    document: int
    inputs: Ids
    targets: Ids
    end: int = -1


def _window(document: int, stream: Ids, first: int, start: int, stop: int, end: int = -1) -> Window:
    """The window that reads ``stream[first:stop]`` and predicts what follows from ``start`` on."""
    targets = np.full(stop - first, IGNORE, dtype=np.int64)
    targets[start - first :] = stream[start + 1 : stop + 1]
    return Window(document, stream[first:stop], targets, end)


def rolling_windows(
    document: int, ids: npt.NDArray[np.integer], window: int, bos_id: int, eos_id: int
) -> Iterator[Window]:
    """Cut one document into windows that overlap by one token.

    Args:
        document: Its index.
        ids: Its token ids without begin or end of text, [tokens].
        window: Maximum context in tokens, at least 2.
        bos_id: What stands before the text.
        eos_id: What stands after it.

    Yields:
        Windows of at most ``window`` inputs; each id is the target of exactly one, and so is the
        end of text.
    """
    stream = np.concatenate([[bos_id], ids, [eos_id]]).astype(np.int64)
    count = len(ids)
    start = 0  # ids scored so far; stream[start] is the input that predicts stream[start + 1]
    ended = False
    while start < count:
        stop = min(start + window, count)
        first = max(0, stop - window) if stop == count else start
        # One more input predicts the end of the text, where there is room for it.
        ended = stop == count and stop + 1 - first <= window
        yield _window(document, stream, first, start, stop + ended, stop - first if ended else -1)
        start = stop
    if not ended:
        first = max(0, count + 1 - window)
        yield _window(document, stream, first, count, count + 1, count - first)


def sliding_windows(
    document: int, ids: npt.NDArray[np.integer], window: int, stride: int, bos_id: int
) -> Iterator[Window]:
    """Cut one document into windows that overlap, so that every token has much context.

    As in "Perplexity of fixed-length models" of transformers' documentation, with two differences:
    an end-of-text token stands before the document, and no window crosses documents. The end of the
    text is not scored.

    Args:
        document: Its index.
        ids: Its token ids, [tokens].
        window: Maximum context in tokens.
        stride: Tokens that each window but the first scores, at most ``window``.
        bos_id: What stands before the text.

    Yields:
        Windows of at most ``window`` inputs; each id is the target of exactly one.
    """
    stream = np.concatenate([[bos_id], ids]).astype(np.int64)
    start = 0
    while start < len(ids):
        stop = min(start + (stride if start else window), len(ids))
        yield _window(document, stream, max(0, stop - window), start, stop)
        start = stop


def plain_window(document: int, ids: npt.NDArray[np.integer], tokens: int) -> Iterator[Window]:
    """The first tokens of a document as the original project read them, with nothing before them.

    The first token is therefore not scored; what comes after ``tokens`` of them is not read.
    """
    stream = np.asarray(ids[:tokens], dtype=np.int64)
    if len(stream) > 1:
        yield _window(document, stream, 0, 0, len(stream) - 1)


def continuation(
    item: int, context: Sequence[int], target: Sequence[int], window: int, bos_id: int
) -> Window:
    """One window that scores ``target`` after ``context``.

    Where both don't fit, the oldest context is left out; the scored tokens are the same for every
    context.

    Args:
        item: Its index.
        context: Token ids before.
        target: Token ids that are scored, fewer than ``window``.
        window: Maximum context in tokens.
        bos_id: What stands before the context.
    """
    stream = np.array([bos_id, *context, *target], dtype=np.int64)
    stop = len(stream) - 1
    return _window(item, stream, max(0, stop - window), stop - len(target), stop)


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
    body, head = body_and_head(model.model)
    varlen = supports_varlen(model, body)
    fixed = PASS_ON_GPU if varlen and model.device.torch_device.type != "cpu" else PASS
    if not varlen:  # some families take no row that is longer than their context
        fixed = min(fixed, model.context_length)
    size = max(fixed, min(model.context_length, max(lengths)))
    if model.device.precision == "bf16":
        head = head.to(torch.bfloat16)
    score_head = functools.partial(head_nll, head=head, chunk=_CHUNK)
    score = functools.partial(_score_pass, model, size, varlen, body, score_head)
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
    body: Body,
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
    body: Body,
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
        return body.packed(inputs, segment_ids, position_ids)[0]
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
    **more: Any,
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
        **more: What else the model asks of its attention.

    Returns:
        [1, tokens, heads, size], and no weights.

    Raises:
        ValueError: The model's attention does more, or does not hand on the lengths.
    """
    wanted = [name for name in _MORE_THAN_ATTENTION if more.get(name) is not None]
    if wanted or not window_lengths:
        raise ValueError(f"attention per window knows no {', '.join(wanted) or 'such model'}")
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


def supports_varlen(model: LoadedModel, body: Body) -> bool:
    """Whether attention per window gives this model's numbers: tried once, on eight tokens."""
    if model.bare not in _TRIED:
        _TRIED[model.bare] = _try_varlen(model, body)
    return _TRIED[model.bare]


def _try_varlen(model: LoadedModel, body: Body) -> bool:
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
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            return False
    return bool((found - wanted).abs().max() <= 3e-4 * wanted.abs().max())


@dataclasses.dataclass(frozen=True)
class DocumentScore:
    """The score of one document by one model.

    Attributes:
        source: Its domain.
        group: What it is resampled with.
        nll: Negative log-probability of its tokens, in nats.
        eos_nll: That of the end-of-text token after them.
        tokens: Number of its tokens.
        words: Number of words of the original text, split at white space.
        bytes: Length of the original text in UTF-8.
        digest: SHA-1 of prompt and text.
        joint: What stood between them; old records don't say, since it was always an empty line.
        title: Its title, where it has one.
        sliding_nll: NLL of its tokens by windows with a stride, where asked for.
        legacy_nll: Mean NLL of its first 512 tokens but the first, as the original project computed
            it, where asked for and where there are two tokens.
        window: Tokens of context that were asked for; a model with less context had fewer.
        stride: Of the windows of ``sliding_nll``.
    """

    source: str
    group: str
    nll: float
    eos_nll: float
    tokens: int
    words: int
    bytes: int
    digest: str = ""
    joint: str = SEPARATOR
    title: str | None = None
    sliding_nll: float | None = None
    legacy_nll: float | None = None
    window: int | None = None
    stride: int | None = None

    @property
    def bits_per_byte(self) -> float:
        """NLL in bits per byte of the original text."""
        return self.nll / max(self.bytes, 1) / math.log(2)


def score_documents(
    model: LoadedModel,
    documents: Sequence[Document],
    *,
    window: int = WINDOW,
    stride: int | None = None,
    legacy: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> list[DocumentScore]:
    """Score documents with the model as it is, in ``eval()`` mode.

    Args:
        model: The model.
        documents: The documents.
        window: Maximum context in tokens.
        stride: Also score by windows that move on by so many tokens.
        legacy: Also score the first 512 tokens as the original project did.
        group: The processes that share the work; each passes all documents and gets all scores.
        progress: Called with (windows done, windows in all).

    Returns:
        A score for each document, in order. Words and bytes are counted in the original text,
        before any cleaning that changed their number.

    Raises:
        InputError: A stride that is not within the window.
    """
    asked, window = window, min(window, model.context_length)
    with group.share_errors():
        if stride is not None and not 1 <= stride <= window:
            raise InputError(f"stride is {stride}", f"give a number of tokens from 1 to {window}")
        model.model.eval()
        tokens = tokenize(documents, model.tokenizer, None)
    numbers = range(len(documents))
    bos, eos = model.bos_id, model.eos_id
    rolling = [w for i in numbers for w in rolling_windows(i, tokens[i], window, bos, eos)]
    sliding = [
        w for i in numbers if stride for w in sliding_windows(i, tokens[i], window, stride, bos)
    ]
    most = min(LEGACY_TOKENS, model.context_length)
    first = [w for i in numbers if legacy for w in plain_window(i, tokens[i], most)]
    values = iter(windows_nll(model, [*rolling, *sliding, *first], group=group, progress=progress))

    nll, eos_nll, sliding_nll = (np.zeros(len(documents)) for _ in range(3))
    for piece in rolling:
        found = next(values)
        ending = found[piece.end] if piece.end >= 0 else 0.0
        eos_nll[piece.document] += ending
        nll[piece.document] += found.sum() - ending
    for piece in sliding:
        sliding_nll[piece.document] += next(values).sum()
    legacy_nll = {piece.document: float(next(values).mean()) for piece in first}
    return [
        DocumentScore(
            source=document.source,
            group=document.group,
            nll=float(nll[index]),
            eos_nll=float(eos_nll[index]),
            tokens=len(tokens[index]),
            words=_original_words(document),
            bytes=_original_bytes(document),
            digest=document.digest,
            joint=document.joint if document.prompt else SEPARATOR,
            title=document.title,
            sliding_nll=float(sliding_nll[index]) if stride else None,
            legacy_nll=legacy_nll.get(index),
            window=asked,
            stride=stride,
        )
        for index, document in enumerate(documents)
    ]


def _original_words(document: Document) -> int:
    if document.original_words is not None:
        return document.original_words
    return count_words(document.full_text())


def _original_bytes(document: Document) -> int:
    if document.original_bytes is not None:
        return document.original_bytes
    return len(document.full_text().encode("utf-8", "surrogatepass"))


def score_continuations(
    model: LoadedModel,
    items: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    group: ProcessGroup = SINGLE_PROCESS,
    progress: CountCallback | None = None,
) -> list[float]:
    """Log-probability of each target given its context.

    Args:
        model: The model.
        items: Context and target as token ids.
        group: The processes that share the work; each passes all items and gets all sums.
        progress: Called with (items done, items in all).

    Returns:
        Sums of log-probabilities in nats, 0 for an empty target.
    """
    model.model.eval()
    windows = [
        continuation(
            index, context, target[: model.context_length], model.context_length, model.bos_id
        )
        for index, (context, target) in enumerate(items)
        if len(target)
    ]
    result = [0.0] * len(items)
    values = windows_nll(model, windows, group=group, progress=progress)
    for window, found in zip(windows, values, strict=True):
        result[window.document] = -float(found.sum())
    return result
