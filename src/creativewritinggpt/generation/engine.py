"""The decoding engine: a batch of prompts to texts, one token per row and step.

All alternatives of a prompt are one batch, so that the weights are read once per step; a row that
ends leaves the batch. Random numbers belong to the row: the same seed gives the same text alone and
in a batch. A :class:`~creativewritinggpt.models.forward.backend.Backend` computes the logits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .. import console
from ..errors import RunError, Stopped
from ..models.forward.backends import backend_for
from ..models.forward.native_backend import Backend, Context
from .results import Generated, Piece, best, step_tokens
from .row import Pinned, Row, make_view
from .sampling.samplers import Chain, Trace
from .sampling.settings import GenerationSettings, seeds_from
from .text import Vocabulary, encode, vocabulary

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

MOST_ROWS = 8
"""Maximum number of rows in a batch; further requests wait for the next batch."""
Warn = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """A text to be continued.

    Attributes:
        prompt: The text so far; empty starts a new text.
        seed: Random seed.
        memory: Text pinned to the front of the model's view.
        note: Text pinned a few paragraphs before its end.
    """

    prompt: str
    seed: int
    memory: str = ""
    note: str = ""


class Interrupted(Stopped):
    """The user stopped the writing; ``results`` holds what was written."""

    def __init__(self, results: list[Generated]) -> None:
        super().__init__("stopped")
        self.results = results


def write(
    model: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> list[Generated]:
    """Write ``n`` continuations of ``prompt``.

    Args:
        model: The model.
        prompt: The text so far; empty starts a new text.
        settings: Generation settings; alternative ``i`` has the seed ``settings.seed + i``.
        n: Number of texts; with ``settings.best_of`` the best ``n`` of so many, best first.
        memory: Text pinned to the front of the model's view.
        note: Text pinned a few paragraphs before its end.
        alternatives: Number of alternatives to record per token, before and after the samplers.
        warn: Called with what the user should know.

    Raises:
        Interrupted: Ctrl-C; carries what was written.
        InputError: The settings don't fit the model.
        RunError: The model's output is not a number.
    """
    settings = settings or GenerationSettings()
    count = max(n, settings.best_of or n)
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, count)]
    results = write_all(model, requests, settings, alternatives=alternatives, warn=warn)
    return best(results, n, settings.rank_by) if settings.best_of else results


def write_all(
    model: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> list[Generated]:
    """Write all of ``requests``, in their order; see :func:`write`."""
    results = collect(compose(model, requests, settings, alternatives=alternatives, warn=warn))
    if any(result.finish_reason == "interrupted" for result in results):
        raise Interrupted(results)
    return results


def stream(
    model: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write like :func:`write`, yielding each new piece of text once it is settled.

    The last piece of each alternative carries the whole text as ``result``. Ctrl-C ends the writing
    with one more piece for each unfinished alternative. Closing the iterator stops it.
    """
    settings = settings or GenerationSettings()
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, n)]
    yield from compose(model, requests, settings, alternatives=alternatives, warn=warn)


def compose(
    model: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write all of ``requests`` in batches of up to :data:`MOST_ROWS`, yielding pieces of text.

    A ``KeyboardInterrupt``, also one thrown into the generator, ends the writing with one more
    piece for each unfinished request of the batch.
    """
    backend = backend_for(model, settings.weights)
    for first in range(0, len(requests), MOST_ROWS):
        numbered = list(enumerate(requests))[first : first + MOST_ROWS]
        batch = _Batch(model, backend, numbered, settings, alternatives, warn)
        yield from batch.run()
        if batch.interrupted:
            return


def collect(
    pieces: Generator[Piece, None, None],
    *,
    show: Callable[[Piece], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> list[Generated]:
    """The whole texts of :func:`compose` or :func:`stream`, in the order of their requests.

    Args:
        pieces: The generator.
        show: Called with each piece.
        stopped: Asked after each piece; True ends the writing as Ctrl-C does.
    """
    results: dict[int, Generated] = {}
    asked = False
    piece = next(pieces, None)
    while piece is not None:
        try:
            if show is not None:
                show(piece)
            if piece.result is not None:
                results[piece.index] = piece.result
            if stopped is not None and not asked and stopped():
                asked = True
                piece = _interrupt(pieces)
            else:
                piece = next(pieces, None)
        except KeyboardInterrupt:  # it came between two steps of the engine
            piece = _interrupt(pieces)
    return [results[index] for index in sorted(results)]


def _interrupt(pieces: Generator[Piece, None, None]) -> Piece | None:
    try:
        return pieces.throw(KeyboardInterrupt())
    except StopIteration:
        return None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute the block on one thread.

    Trade-off: samplers are too small to gain from a second thread, which would then busy-wait on
    the core that the next step, or another program, needs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Batch:
    """Rows that are written in the same steps, from the first token to the last."""

    def __init__(
        self,
        model: LoadedModel,
        backend: Backend,
        requests: Sequence[tuple[int, Request]],
        settings: GenerationSettings,
        alternatives: int,
        warn: Warn,
    ) -> None:
        self.started = time.perf_counter()
        self.first_token = 0.0
        self.interrupted = False
        self.backend = backend
        self.settings = settings
        self.alternatives = alternatives
        self.context_length = model.context_length
        self.bos_id = model.bos_id
        self.words: Vocabulary = vocabulary(model.tokenizer)
        self.requests = dict(requests)
        self.prompt_tokens: dict[int, int] = {}
        self.warn = warn
        ends = {model.eos_id, *self.words.special}
        self.chain = Chain(settings, self.words, ends)

        def ids(text: str) -> list[int]:
            return encode(model.tokenizer, text)

        self.rows = [
            Row(
                index,
                ids(request.prompt),
                request.seed,
                settings,
                self.words,
                ends,
                Pinned(ids(request.memory), ids(request.note)),
            )
            for index, request in requests
        ]

    def run(self) -> Iterator[Piece]:
        """Write until every row has ended."""
        active = list(self.rows)
        try:
            context, logits = self._read_prompts(active)
            while True:
                undone = self._next_tokens(logits, active)
                if not self.first_token:
                    self.first_token = time.perf_counter() - self.started
                for row in active:
                    yield self._piece(row)
                context, active = self._go_on(context, active, undone)
                if not active:
                    return
                logits = context.step([row.last for row in active])
        except KeyboardInterrupt:
            self.interrupted = True
            for row in self.rows:
                if row.finish_reason is None:
                    row.interrupt()
                if not row.reported:
                    yield self._piece(row)

    def _read_prompts(self, rows: Sequence[Row]) -> tuple[Context, torch.Tensor]:
        """Prefill the view of every row, equal views once; the logits after it per row."""
        known: dict[tuple[int, ...], int] = {}
        contexts: list[Context] = []
        logits: list[torch.Tensor] = []
        order = []
        for row in rows:
            view = self._view(row)
            self.prompt_tokens[row.index] = len(row.history) - row.view_start
            if row.view_start:
                self.warn(
                    f"the prompt is longer than the model's window of {self.context_length} "
                    f"tokens; only its last {self.prompt_tokens[row.index]} tokens are used"
                )
            if tuple(view) not in known:
                known[tuple(view)] = len(contexts)
                context, after = self.backend.read(view, self._capacity(row))
                contexts.append(context)
                logits.append(after)
            order.append(known[tuple(view)])
        whole = contexts[0] if len(contexts) == 1 else self.backend.join(contexts)
        if order != list(range(len(contexts))):
            whole = whole.fork(order)
        return whole, torch.cat(logits)[order]

    def _view(self, row: Row) -> list[int]:
        view = make_view(
            row.history,
            self.words,
            context_length=self.context_length,
            bos_id=self.bos_id,
            pinned=row.pinned,
            start=row.view_start,
        )
        row.look(view)
        return view.ids

    def _capacity(self, row: Row) -> int:
        left = self.settings.max_new_tokens - len(row.tokens)
        return min(self.context_length, row.view_length + left + 1)

    def _next_tokens(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """Draw and add a token per row; the number of tokens that each row undid."""
        with _one_thread():
            if bool(torch.isnan(logits.sum())):
                raise RunError(
                    "the model's output is not a number (NaN): its weights are damaged",
                    "load another model, or train it again with a lower learning rate",
                )
            for row in rows:
                row.roll()
            trace: Trace | None = [] if self.alternatives else None
            final = self.chain.apply(logits, rows, trace)
            drawn, probabilities = self.chain.choose(final, rows)
            tokens = step_tokens(
                logits, drawn, probabilities, self.words,
                alternatives=self.alternatives, final=final, trace=trace,
            )  # fmt: skip
            return [row.add(token) for row, token in zip(rows, tokens, strict=True)]

    def _go_on(
        self, context: Context, rows: list[Row], undone: Sequence[int]
    ) -> tuple[Context, list[Row]]:
        """Remove ended rows, truncate undone tokens, prefill rows whose view moves."""
        kept = [place for place, row in enumerate(rows) if row.finish_reason is None]
        if not kept:
            return context, []
        moves = [
            rows[place].read_length > self.context_length
            or len(rows[place].history) < rows[place].made_at
            for place in kept
        ]
        if any(moves):
            parts = []
            for place, moved in zip(kept, moves, strict=True):
                if moved:
                    view = self._view(rows[place])
                    part = self.backend.start(self._capacity(rows[place]))
                    if len(view) > 1:  # the next step reads the last token
                        part.prefill(view[:-1])
                else:
                    part = context.fork([place])
                parts.append(part)
            context = parts[0] if len(parts) == 1 else self.backend.join(parts)
        elif len(kept) < len(rows):
            context = context.fork(kept)
        rows, undone = [rows[place] for place in kept], [undone[place] for place in kept]
        for place, (row, count, moved) in enumerate(zip(rows, undone, moves, strict=True)):
            if count and not moved:
                # Without the last token, which the next step reads.
                context.truncate(place, row.read_length - 1)
        return context, rows

    def _piece(self, row: Row) -> Piece:
        text, tokens = row.settled()
        row.reported = row.finish_reason is not None
        result = self._result(row) if row.reported else None
        return Piece(row.index, text, tokens, row.view_start_characters, result)

    def _result(self, row: Row) -> Generated:
        seconds = time.perf_counter() - self.started - self.first_token
        count = len(row.tokens)
        return Generated(
            text=row.text,
            prompt=self.requests[row.index].prompt,
            seed=row.seed,
            finish_reason=row.finish_reason or "interrupted",
            tokens=row.tokens,
            prompt_tokens=self.prompt_tokens[row.index],
            view_start=row.view_start_characters,
            settings=self.settings,
            first_token_seconds=self.first_token,
            tokens_per_second=(count - 1) / seconds if count > 1 and seconds > 0 else 0.0,
        )
