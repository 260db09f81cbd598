"""Continuous batching: rows join and leave a running batch between two decoding steps.

A row's prompt is read in blocks of at most :data:`~..models.forward.native_backend.BLOCK` tokens.
Each row has its own settings, samplers, seed and cancellation; rows with equal samplers go through
them together. Random numbers belong to the row, and the 8-bit formats give a row the same bits in
any batch, so that a seed gives the same text however many rows are written beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RunError
from ..models.forward.native_backend import BLOCK, Backend
from .results import Generated, Piece, step_tokens
from .row import Pinned, Row, View, make_view
from .sampling.samplers import Chain, Trace
from .sampling.settings import GenerationSettings
from .text import Vocabulary, encode, vocabulary

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

MOST_ROWS = 8
"""Maximum number of rows in a batch; further rows wait until one ends."""
Warn = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """A text to be continued.

    Attributes:
        prompt: The text so far, or its token ids; empty starts a new text.
        seed: Random seed.
        memory: Text pinned to the front of the model's view.
        note: Text pinned a few paragraphs before its end.
        owner: Whose it is: readings of prompts are shared with requests of the same owner alone.
    """

    prompt: str | Sequence[int]
    seed: int
    memory: str = ""
    note: str = ""
    owner: str = ""


@dataclasses.dataclass(eq=False)
class Writing:
    """A request while it is being written.

    Attributes:
        request: The request.
        row: Its tokens and text.
        chain: Its samplers.
        alternatives: Number of alternatives to record per token.
        prompt_tokens: Number of tokens of the prompt that the model saw.
        owner: What the caller keeps beside it.
        open_ends: Ends of the prompt that may be re-opened (see :meth:`.Vocabulary.open_ends`).
        read_as: The view that was read first, with its open ends.
        taken_back: Number of tokens of that view that were re-opened.
    """

    request: Request
    row: Row
    chain: Chain
    alternatives: int = 0
    prompt_tokens: int = 0
    owner: Any = None
    open_ends: dict[int, str] = dataclasses.field(default_factory=dict)
    read_as: tuple[list[int], dict[int, str]] | None = None
    taken_back: int = 0
    started: float = dataclasses.field(default_factory=time.perf_counter)
    first_token_seconds: float = 0.0
    cancelled: bool = False
    view: list[int] = dataclasses.field(default_factory=list)
    reads_last: bool = False
    context: Any = None
    logits: torch.Tensor | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of the prompt has been read."""
        return self.context is not None or bool(self.first_token_seconds)

    def cancel(self) -> None:
        """Ask for the end of the row, which comes with the next block or step."""
        self.cancelled = True


class Decoder:
    """Rows of one model that are written side by side.

    Args:
        model: The model.
        backend: Its forward pass.
        warn: Called with what the user should know.
        most_rows: Maximum number of rows in the batch.
        whole_prompts: Whether prompts are read whole before the next step, which is faster where
            nobody waits for the other rows' tokens.
    """

    def __init__(
        self,
        model: LoadedModel,
        backend: Backend,
        *,
        warn: Warn,
        most_rows: int = MOST_ROWS,
        whole_prompts: bool = False,
    ) -> None:
        self.backend = backend
        self.model = model
        self.words: Vocabulary = vocabulary(model.tokenizer)
        self.ends = {model.eos_id, *self.words.special}
        self.warn = warn
        self.most_rows = most_rows
        self.whole_prompts = whole_prompts
        self._waiting: list[Writing] = []
        self._active: list[Writing] = []
        self._context: Any = None
        self._logits = torch.empty(0)
        self._pieces: list[tuple[Writing, Piece]] = []

    def chain(
        self, settings: GenerationSettings, token_bias: Mapping[int, float] | None = None
    ) -> Chain:
        """The samplers of these settings, and amounts to add to the logits of token ids."""
        return Chain(settings, self.words, self.ends, token_bias)

    def add(
        self,
        index: int,
        request: Request,
        settings: GenerationSettings,
        chain: Chain,
        *,
        alternatives: int = 0,
        owner: Any = None,
    ) -> Writing:
        """A new row, which begins with the next call of :meth:`advance` that has room for it.

        Raises:
            InputError: Memory and note take more than half of the context length.
        """
        prompt = request.prompt
        ids = self._ids(prompt) if isinstance(prompt, str) else list(prompt)
        pinned = Pinned(self._ids(request.memory), self._ids(request.note))
        row = Row(index, ids, request.seed, settings, self.words, self.ends, pinned)
        writing = Writing(request, row, chain, alternatives, owner=owner)
        if settings.heal and isinstance(prompt, str):
            writing.open_ends = self.words.open_ends(prompt, ids)
        self._look(writing)
        writing.prompt_tokens = len(row.history) - row.view_start
        if row.view_start:
            self.warn(
                f"the prompt is longer than the model's window of {self.model.context_length} "
                f"tokens; only its last {writing.prompt_tokens} tokens are used"
            )
        self._waiting.append(writing)
        return writing

    @property
    def writings(self) -> list[Writing]:
        """All rows that have not ended."""
        return [*self._active, *self._waiting]

    def advance(self) -> list[tuple[Writing, Piece]]:
        """Write one token in every row of the batch and read a block of a waiting prompt.

        Returns:
            The new pieces of text; the last of a row carries its result.

        Raises:
            RunError: The model's output is not a number.
        """
        self._drop_cancelled()
        if self._active:
            undone = self._draw()
            self._pieces += [(writing, self._piece(writing)) for writing in self._active]
            self._leave(undone)
        read = self._read()
        self._join([writing for writing in read if writing.reads_last])
        if self._active:
            self._logits = self._context.step([writing.row.last for writing in self._active])
        self._join([writing for writing in read if not writing.reads_last])
        return self._delivered()

    def interrupt(self) -> list[tuple[Writing, Piece]]:
        """End every row; the last piece of each, and those that a failed step did not return."""
        for writing in self.writings:
            writing.cancel()
        self._drop_cancelled()
        return self._delivered()

    def _delivered(self) -> list[tuple[Writing, Piece]]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _ids(self, text: str) -> list[int]:
        return encode(self.model.tokenizer, text)

    def _drop_cancelled(self) -> None:
        """Let cancelled rows end and leave."""
        ended = [writing for writing in self.writings if writing.cancelled]
        for writing in ended:
            if writing.row.finish_reason is None:
                writing.row.interrupt()
        self._waiting = [writing for writing in self._waiting if not writing.cancelled]
        kept = [place for place, writing in enumerate(self._active) if not writing.cancelled]
        self._keep(kept)
        if kept and len(kept) < len(self._logits):
            self._logits = self._logits[kept]
        self._pieces += [
            (writing, self._piece(writing)) for writing in ended if not writing.row.reported
        ]

    def _keep(self, places: Sequence[int]) -> None:
        """Let the rows at other places leave the batch."""
        if len(places) == len(self._active):
            return
        self._active = [self._active[place] for place in places]
        self._context = self._context.fork(places) if places else None

    def _look(self, writing: Writing) -> None:
        """Make the view of a row whose context has to be read."""
        row = writing.row
        view = make_view(
            row.history,
            self.words,
            context_length=self.model.context_length,
            bos_id=self.model.bos_id,
            pinned=row.pinned,
            start=row.view_start,
        )
        row.look(view)
        writing.view = view.ids

    def _read(self) -> list[Writing]:
        """Read a block of the first waiting prompt, or all of those there is room for.

        Returns:
            The rows whose views are read.
        """
        read: list[Writing] = []
        budget = BLOCK
        while (
            self._waiting
            and len(self._active) + len(read) < self.most_rows
            and (self.whole_prompts or budget > 0)
        ):
            writing = self._waiting[0]
            wanted = (writing.view, writing.open_ends)
            twin = next((other for other in read if other.read_as == wanted), None)
            if twin is not None and twin.logits is not None and writing.context is None:
                writing.context, writing.logits = twin.context.fork([0]), twin.logits
                self._heal(writing, twin.taken_back)
            else:
                budget -= self._read_block(writing)
            if writing.logits is None and not (writing.reads_last and self._is_read(writing)):
                continue
            if writing.read_as is None:
                self._heal(writing, self._count_to_reopen(writing))
                if writing.taken_back:  # read anew, as the shorter prompt would be
                    writing.context = writing.logits = None
                    continue
            read.append(self._waiting.pop(0))
        return read

    def _heal(self, writing: Writing, count: int) -> None:
        """Take back tokens at the end of a prompt, which the next ones have to begin with."""
        ends, view = writing.open_ends, writing.view
        writing.read_as, writing.taken_back, writing.open_ends = (view, ends), count, {}
        if count:
            writing.row.reopen(count, ends[count])
            writing.view = view[:-count]
            writing.row.look(View(writing.view, writing.row.view_start))

    def _count_to_reopen(self, writing: Writing) -> int:
        """Number of tokens at the end of a prompt that the model would rather go on within.

        Those are taken back for which a longer token that begins with what they spell is likelier
        than they are themselves. A prompt without such an end stays as it was read, to the last
        bit.
        """
        view = writing.view
        most = min(max(writing.open_ends, default=0), len(view) - 1)
        if not most or writing.logits is None:
            return 0
        place = len(view) - most
        context = writing.context.fork([0])
        context.truncate(0, place - 1)
        logs = [context.step([token]).log_softmax(-1)[0].clone() for token in view[place - 1 : -1]]
        own = 0.0
        found = 0
        for count in range(1, most + 1):
            log, token = logs[-count], view[-count]
            own += float(log[token])
            if count in writing.open_ends:
                longer = self.words.begun(writing.open_ends[count]) - {token}
                if max((float(log[t]) for t in longer if t < len(log)), default=-math.inf) > own:
                    found = count
        return found

    def _capacity(self, writing: Writing) -> int:
        left = writing.row.settings.max_new_tokens - len(writing.row.tokens)
        # A re-opened end may be spelled by more tokens than it had.
        spelled = max(map(len, writing.open_ends.values()), default=0)
        return min(self.model.context_length, len(writing.view) + left + spelled + 1)

    def _is_read(self, writing: Writing) -> bool:
        return bool(writing.context.lengths[0] == len(self._to_read(writing)))

    def _to_read(self, writing: Writing) -> list[int]:
        # A row whose view has moved reads its last token with the next step.
        return writing.view[:-1] if writing.reads_last else writing.view

    def _read_block(self, writing: Writing) -> int:
        """Read the next block of a waiting view; its number of tokens."""
        ids = self._to_read(writing)
        if writing.context is None:
            capacity = self._capacity(writing)
            if writing.reads_last:
                writing.context = self.backend.start(capacity)
            else:
                writing.context, writing.logits = self.backend.begin(
                    ids, capacity, writing.request.owner
                )
        start: int = writing.context.lengths[0]
        count = min(len(ids) - start, BLOCK - start % BLOCK)
        if count <= 0:
            return 0
        logits = writing.context.prefill(ids[start : start + count])
        if start + count == len(ids) and not writing.reads_last:
            writing.logits = logits
            self.backend.keep(ids, writing.context, logits, writing.request.owner)
        return count

    def _join(self, read: Sequence[Writing]) -> None:
        """Let rows whose views are read join the batch."""
        if not read:
            return
        contexts = [writing.context for writing in read]
        if self._active:
            contexts.insert(0, self._context)
        self._context = contexts[0] if len(contexts) == 1 else self.backend.join(contexts)
        logits = [writing.logits for writing in read if writing.logits is not None]
        if logits:
            self._logits = torch.cat([self._logits, *logits] if self._active else logits)
        self._active += read
        for writing in read:
            writing.context = writing.logits = None

    def _draw(self) -> list[int]:
        """Draw and add a token per row; the number of tokens that each row undid."""
        logits, undone = self._logits, dict[int, int]()
        groups: dict[tuple[int, int], list[int]] = {}
        for place, writing in enumerate(self._active):
            groups.setdefault((id(writing.chain), writing.alternatives), []).append(place)
        with _one_thread():
            if bool(torch.isnan(logits.sum())):
                raise RunError(
                    "the model's output is not a number (NaN): its weights are damaged",
                    "load another model, or train it again with a lower learning rate",
                )
            for (_, alternatives), places in groups.items():
                writings = [self._active[place] for place in places]
                part = logits if len(groups) == 1 else logits[places]
                rows, chain = [writing.row for writing in writings], writings[0].chain
                for row in rows:
                    row.roll()
                trace: Trace | None = [] if alternatives else None
                final = chain.apply(part, rows, trace)
                drawn, probabilities = chain.choose(final, rows)
                tokens = step_tokens(
                    part, drawn, probabilities, self.words,
                    alternatives=alternatives, final=final, trace=trace,
                )  # fmt: skip
                for place, row, token in zip(places, rows, tokens, strict=True):
                    undone[place] = row.add(token)
        for writing in self._active:
            if not writing.first_token_seconds:
                writing.first_token_seconds = time.perf_counter() - writing.started
        return [undone[place] for place in range(len(self._active))]

    def _leave(self, undone: Sequence[int]) -> None:
        """Remove ended rows, truncate undone tokens, let rows whose view moves wait."""
        kept = []
        for place, writing in enumerate(self._active):
            row = writing.row
            if row.finish_reason is not None:
                continue
            if row.read_length > self.model.context_length or len(row.history) < row.made_at:
                self._look(writing)
                writing.reads_last = True
                self._waiting.insert(0, writing)
                continue
            kept.append(place)
        counts = [undone[place] for place in kept]
        self._keep(kept)
        for place, (writing, count) in enumerate(zip(self._active, counts, strict=True)):
            if count:
                # Without the last token, which the next step reads.
                self._context.truncate(place, writing.row.read_length - 1)

    def _piece(self, writing: Writing) -> Piece:
        row = writing.row
        text, tokens = row.settled()
        row.reported = row.finish_reason is not None
        result = self._result(writing) if row.reported else None
        return Piece(row.index, text, tokens, row.view_start_characters, result)

    def _result(self, writing: Writing) -> Generated:
        row = writing.row
        seconds = time.perf_counter() - writing.started - writing.first_token_seconds
        count = len(row.tokens)
        prompt = writing.request.prompt
        return Generated(
            text=row.text,
            prompt=prompt if isinstance(prompt, str) else "",
            seed=row.seed,
            finish_reason=row.finish_reason or "interrupted",
            tokens=row.tokens,
            prompt_tokens=writing.prompt_tokens,
            view_start=row.view_start_characters,
            settings=row.settings,
            first_token_seconds=writing.first_token_seconds,
            healed=prompt[len(prompt) - row.reopened :] if isinstance(prompt, str) else "",
            tokens_per_second=(count - 1) / seconds if count > 1 and seconds > 0 else 0.0,
        )


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
