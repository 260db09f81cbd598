"""The decoding loop: prompts in, texts out, one token in each row at a time.

All alternatives of a prompt are written side by side, so that the weights are read once for all of
them; a row that ends leaves the batch. Random numbers belong to the row and not to the batch: the
same seed gives the same text alone and among others. What computes the logits is a backend.
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
from ..models.forward.backend import Backend, Context
from ..models.forward.backends import backend_for
from . import record
from .context import Pinned, make_view
from .results import Generated, Piece
from .row import Row
from .sampling.chain import Chain
from .sampling.settings import GenerationSettings, seeds_from
from .text import Vocabulary, encode, vocabulary

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

# Rows written side by side at most; more requests wait for the next batch.
MOST_ROWS = 8
Warn = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """A text to be continued.

    Attributes:
        prompt: The text so far; empty starts a new text.
        seed: Of its random numbers.
        memory: Text that stays at the front of the model's view.
        note: Text that stays a few paragraphs before the end of it.
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
    writer: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> list[Generated]:
    """Write ``n`` continuations of ``prompt``, side by side.

    Args:
        writer: The model.
        prompt: The text so far; empty starts a new text.
        settings: How to write; alternative ``i`` has the seed ``settings.seed + i``.
        n: How many; with ``settings.best_of`` the best ``n`` of so many, best first.
        memory: Text that stays at the front of the model's view.
        note: Text that stays a few paragraphs before the end of it.
        alternatives: Record so many alternatives for each token, before and after the samplers.
        warn: Takes what the user should know.

    Raises:
        Interrupted: Ctrl-C; carries what was written.
        InputError: The settings don't fit the model.
        RunError: The model computes no numbers.
    """
    settings = settings or GenerationSettings()
    count = max(n, settings.best_of or n)
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, count)]
    results = write_all(writer, requests, settings, alternatives=alternatives, warn=warn)
    if count > n or settings.best_of:
        from .ranking import best

        return best(results, n, settings.rank_by)
    return results


def write_all(
    writer: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> list[Generated]:
    """Write all of ``requests``, in their order; see :func:`write`."""
    results: dict[int, Generated] = {}
    pieces = compose(writer, requests, settings, alternatives=alternatives, warn=warn)
    piece = next(pieces, None)
    while piece is not None:
        try:
            if piece.result is not None:
                results[piece.index] = piece.result
            piece = next(pieces, None)
        except KeyboardInterrupt:
            # It fell between two steps: tell the engine, which hands out what there is.
            piece = _throw(pieces)
    ordered = [results[index] for index in sorted(results)]
    if any(result.finish_reason == "interrupted" for result in ordered):
        raise Interrupted(ordered)
    return ordered


def _throw(pieces: Generator[Piece, None, None]) -> Piece | None:
    try:
        return pieces.throw(KeyboardInterrupt())
    except StopIteration:
        return None


def stream(
    writer: LoadedModel,
    prompt: str,
    settings: GenerationSettings | None = None,
    n: int = 1,
    *,
    memory: str = "",
    note: str = "",
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write like :func:`write`, handing out each new piece of text as it is settled.

    The last piece of each alternative carries the whole text as ``result``. Ctrl-C ends the
    writing with one more piece for each unfinished alternative. Closing the iterator stops it.
    """
    settings = settings or GenerationSettings()
    requests = [Request(prompt, seed, memory, note) for seed in seeds_from(settings.seed, n)]
    yield from compose(writer, requests, settings, alternatives=alternatives, warn=warn)


def compose(
    writer: LoadedModel,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    alternatives: int = 0,
    warn: Warn = console.warn,
) -> Generator[Piece, None, None]:
    """Write all of ``requests``, up to :data:`MOST_ROWS` of them side by side."""
    backend = backend_for(writer, settings.weights)
    for first in range(0, len(requests), MOST_ROWS):
        batch = list(enumerate(requests))[first : first + MOST_ROWS]
        work = _Batch(writer, backend, batch, settings, alternatives, warn)
        yield from work.run()
        if work.interrupted:
            return


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute the block on one thread.

    Samplers do little at a time. A second thread gains nothing there, and afterwards waits busily
    on the core that the next step, or another program, needs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Batch:
    """Rows that are written side by side, from the first token to the last."""

    def __init__(
        self,
        writer: LoadedModel,
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
        self.window = writer.window
        self.bos_id = writer.bos_id
        self.words: Vocabulary = vocabulary(writer.tokenizer)
        ends = {writer.eos_id, *self.words.special}
        self.chain = Chain(settings, self.words, ends)
        self.requests = dict(requests)
        self.rows = [
            Row(
                index,
                encode(writer.tokenizer, request.prompt),
                request.seed,
                settings,
                self.words,
                ends,
                Pinned(
                    encode(writer.tokenizer, request.memory), encode(writer.tokenizer, request.note)
                ),
            )
            for index, request in requests
        ]
        self.prompt_tokens: dict[int, int] = {}
        self.warn = warn

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
        """Read every row's view; rows with the same one share the reading."""
        known: dict[tuple[int, ...], int] = {}
        contexts: list[Context] = []
        logits: list[torch.Tensor] = []
        order = []
        for row in rows:
            view = self._view(row)
            self.prompt_tokens[row.index] = len(row.history) - row.view_start
            if row.view_start:
                self.warn(
                    "the prompt is longer than the model's window of "
                    f"{self.window} tokens; only its last {len(row.history) - row.view_start} "
                    "tokens are used"
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
            window=self.window,
            bos_id=self.bos_id,
            pinned=row.pinned,
            start=row.view_start,
        )
        row.look(view)
        return view.ids

    def _capacity(self, row: Row) -> int:
        left = self.settings.max_new_tokens - len(row.tokens)
        return min(self.window, row.view_length + left + 1)

    def _next_tokens(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """Choose a token for each row; how many each row took back."""
        with _one_thread():
            if bool(torch.isnan(logits.sum())):
                raise RunError(
                    "the model's output is not a number (NaN): its weights are damaged",
                    "load another model, or train it again with a lower learning rate",
                )
            return self._sample(logits, rows)

    def _sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
        """Draw, record and add a token for each row; how many each row took back."""
        for row in rows:
            row.roll()
        trace: list[tuple[str, torch.Tensor]] | None = [] if self.alternatives else None
        final = self.chain.apply(logits, rows, trace)
        tokens, probabilities = self.chain.choose(final, rows)
        figures = record.measure(logits, tokens, probabilities)
        undone = []
        for place, row in enumerate(rows):
            token = record.make_token(int(tokens[place]), place, figures, self.words)
            if trace is not None:
                token = record.with_alternatives(
                    token, logits, final, trace, place, self.alternatives, self.words
                )
            undone.append(row.add(token))
        return undone

    def _go_on(
        self, context: Context, rows: list[Row], undone: Sequence[int]
    ) -> tuple[Context, list[Row]]:
        """Take ended rows out, take back what was undone, move views that are full."""
        kept = [place for place, row in enumerate(rows) if row.finish_reason is None]
        if not kept:
            return context, []
        again = [row.read_length > self.window or len(row.history) < row.made_at for row in rows]
        if len(kept) < len(rows) and not any(again[place] for place in kept):
            context = context.fork(kept)
            rows, undone = [rows[p] for p in kept], [undone[p] for p in kept]
            again = [again[p] for p in kept]
        elif any(again):
            parts = []
            for place in kept:
                if again[place]:
                    view = self._view(rows[place])
                    part = self.backend.start(self._capacity(rows[place]))
                    if len(view) > 1:  # the next step reads the last token
                        part.prefill(view[:-1])
                else:
                    part = context.fork([place])
                parts.append(part)
            context = parts[0] if len(parts) == 1 else self.backend.join(parts)
            rows, undone = [rows[p] for p in kept], [undone[p] for p in kept]
            again = [again[p] for p in kept]
        for place, row in enumerate(rows):
            if undone[place] and not again[place]:
                # All but the last token, which the next step reads again.
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
