"""What the model writes for the story that is open: passages in the text, cards beside it, proofs.

A passage that goes into the text is one step to undo from its first save on; it grows in the story
while it is written, so that a crash loses two seconds of it at most. Cards (drafts, comparisons)
are passages that no branch reaches until one is taken.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from ..generation.results import Generated, Piece, Token, best
from ..generation.sampling.settings import GenerationSettings, seeds_from
from ..story import choices
from ..story.context import StoryView, complete, setup_of
from ..story.tree import Setup, State, Story
from .answers import error_record
from .edits import SOURCE, Written
from .jobs import Job

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from .story_desk import Desk

ALTERNATIVES = 6
"""Alternatives that are recorded per token."""
GROW_SECONDS = 1.5
"""Time after which what has been written is put into the story and saved."""
TELL_SECONDS = 0.03
"""Time in which tokens are collected for one event."""


class Row:
    """A text that is being written.

    Args:
        index: Its number within the job.
        at: Where its text begins, in UTF-16 code units of the page's text.
    """

    def __init__(self, index: int, at: int) -> None:
        self.index, self.at = index, at
        self.text = ""
        self.tokens: list[Token] = []
        self.told = 0  # characters that the page has been told
        self.told_tokens = 0
        self.told_at = 0.0
        self.result: Generated | None = None

    def take(self, piece: Piece) -> None:
        """Add what has been written."""
        self.text += piece.text
        self.tokens += piece.tokens


class Writing:
    """A job of the model that ends with passages of the story.

    Args:
        desk: The desk.
        type: Type of the job.
        parent: Id of the passage before the texts.
        rows: Number of texts.
        cards: What the page is told of each of them.

    Attributes:
        kept: Set when what was written is in the story.
    """

    def __init__(
        self,
        desk: Desk,
        type: str,
        parent: int,
        rows: int,
        cards: list[dict[str, Any]] | None = None,
    ) -> None:
        self.desk, self.parent = desk, parent
        self.kept = threading.Event()
        at = desk.utf16(len(desk.text))
        self.rows = [Row(index, at) for index in range(rows)]
        self.stopped = False
        self._stops: list[Callable[[], None]] = []
        self.job: Job = desk.studio.jobs.begin(type, at=at, stop=self.stop, rows=cards or [])

    def stop(self) -> None:
        """Stop after the current token."""
        self.stopped = True
        for stop in list(self._stops):
            stop()
        if not self._stops:  # it waits for the model
            self.finish(None)

    def begin(self, start: Callable[[LoadedModel], Sequence[Callable[[], None]]]) -> None:
        """Write as soon as there is a model.

        Args:
            start: Hands the work over, and returns what stops it.
        """
        engine = self.desk.studio.engine

        def go() -> None:
            model = engine.model
            if self.stopped or model is None:
                return
            self.desk.studio.jobs.tell(self.job, state="running", message="")
            self._stops += start(model)
            if self.stopped:
                self.stop()

        if engine.state == "loading" and engine.model is None:
            self.desk.studio.jobs.tell(self.job, message=engine.message)
        try:
            engine.when_ready(go, self.finish)
        except BaseException as error:
            self.finish(error if isinstance(error, Exception) else RunError("stopped"))
            raise

    def finish(self, error: Exception | None) -> None:
        """Keep what was written and end the job; called once, from any thread."""
        desk = self.desk
        with desk.lock:
            if self.kept.is_set():
                return
            try:
                self.keep()
            finally:
                if desk.writing is self:
                    desk.writing = None
                self.kept.set()
        said = error_record(error) if error is not None else {}
        state = "failed" if error is not None else "stopped" if self.stopped else "done"

        def announce() -> None:
            jobs = desk.studio.jobs
            if said:
                jobs.tell(self.job, state=state, message=said["message"], advice=said["advice"])
            else:
                jobs.tell(self.job, state=state)
            desk.studio.events.publish("model", **desk.studio.engine.record())

        desk.keeper.save_then(announce)

    def keep(self) -> None:
        """Put what was written into the story; called with the lock."""

    def tell(self, row: Row, last: bool = False) -> int | None:
        """Tell the page what is new of a row, unless that was just done; the event's number."""
        now = time.monotonic()
        text = row.text[row.told :]
        if not text or (not last and now - row.told_at < TELL_SECONDS):
            return None
        at = row.at
        if row.told:
            from .outline import utf16_length

            at += utf16_length(row.text[: row.told]) if self.in_text else 0
        tokens = [
            [token.id, token.text, round(token.logprob, 4), token.rank, round(token.entropy, 4)]
            for token in row.tokens[row.told_tokens :]
        ]
        row.told, row.told_tokens, row.told_at = len(row.text), len(row.tokens), now
        return self.desk.events.publish(
            "piece", job=self.job.id, row=row.index, at=at, text=text, tokens=tokens
        )

    in_text = False


class InText(Writing):
    """A passage that goes into the text while it is written.

    Args:
        desk: The desk, whose branch ends with ``parent`` and whose text is told.
        type: ``continue`` or ``version``.
        parent: Id of the passage before it.
        did: Name of the step.
        before: History and cursor of the story as it was before the command.
        settings: The settings.
        seed: The seed.
        instead: Id of the passage that it is a version of.
    """

    in_text = True

    def __init__(
        self, desk: Desk, type: str, parent: int, did: str,
        before: tuple[list[State], int], settings: GenerationSettings, seed: int,
        instead: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(desk, type, parent, 1)
        self._did, self._before, self._instead = did, before, instead
        self._settings, self._seed = settings, seed
        self._step = desk.story.history is not before[0]  # whether the command made a step
        self._passage: int | None = None
        self._grown = time.monotonic()
        self._seen: list[tuple[int, int]] = []
        self._setup: Setup | None = None
        self._base = len(desk.text)
        self._served = ""
        self._view: StoryView | None = None
        desk.writing = self

    def start(self) -> None:
        """Let the model write."""
        self.begin(self._start)

    def _start(self, model: LoadedModel) -> list[Callable[[], None]]:
        from ..generation.decoder import Request

        engine, settings = self.desk.studio.engine, self._settings
        view = self._view = self.desk.view_at(self.parent)
        seeds = seeds_from(self._seed, settings.best_of or 1)
        requests = [Request(view.prompt, seed, view.memory, view.note) for seed in seeds]
        self._served = engine.served()
        self._adapters = engine.adapters
        stop = engine.write(
            requests, settings, self._on_piece, self._on_end, served=self._served,
            alternatives=ALTERNATIVES,
        )  # fmt: skip
        return [stop]

    def _on_piece(self, piece: Piece) -> None:
        if self._settings.best_of or piece.index:
            return
        row = self.rows[0]
        with self.desk.lock:
            if self.kept.is_set():
                return
            row.take(piece)
            if piece.result is not None:
                row.text = complete(row.text)
            self._tell()
            now = time.monotonic()
            if now - self._grown > GROW_SECONDS and row.text:
                self._grown = now
                self._grow(row.text, row.tokens)
                self.desk.keeper.touch()

    def _tell(self, last: bool = False) -> None:
        row = self.rows[0]
        new = row.text[row.told :]
        number = self.tell(row, last)
        if number is not None:
            self.desk.text += new
            self._seen.append((number, row.told))

    def _on_end(self, results: list[Generated], error: Exception | None) -> None:
        if results:
            chosen = results[0]
            if self._settings.best_of and len(results) > 1:
                chosen = best(results, 1, self._settings.rank_by)[0]
            self.rows[0].result = chosen
        stopped = error is not None and self.stopped
        self.finish(None if stopped else error)

    def keep(self) -> None:
        """Put the passage into the story, or take back the step where nothing was written."""
        desk, row = self.desk, self.rows[0]
        if row.result is not None:
            final, tokens = complete(row.result.text), row.result.tokens
        else:
            final, tokens = complete(row.text), row.tokens
        if not row.told:
            row.text, row.tokens = final, list(tokens)
        self._tell(last=True)
        shown = desk.text[self._base :]
        by = f"job:{self.job.id}"
        if not final:
            desk.story.history, desk.story.cursor = self._before
            if shown or self._step:
                desk.tell(by)
            return
        self._grow(final, tokens)
        if self._instead is not None and self._passage is not None:
            choices.retry(desk.story, self._instead, self._passage, SOURCE)
        same = shown == final
        changes = [] if same else [(self._base, len(desk.text), final)]
        desk.tell(by, changes)
        desk.written = Written(desk.revision, self._base, final, self._seen)

    def _grow(self, text: str, tokens: Sequence[Token]) -> None:
        story = self.desk.story
        if self._setup is None:
            self._setup = self._made_by()
        if self._passage is None:
            start = self._view.start if self._view is not None else 0
            seed = self.rows[0].result.seed if self.rows[0].result is not None else self._seed
            passage = story.offer(
                text, self.parent, by="model", setup=self._setup, seed=seed, start=start
            )
            self._passage = passage.id
            if self._step:
                extend(story, passage.id)
            else:
                story.go(passage.id, self._did)
                self._step = True
        else:
            grow(story, self._passage, text)
            self.desk.outline.forget(self._passage)
        self.desk.tokens[self._passage] = list(tokens)

    def _made_by(self) -> Setup:
        view = self._view
        assert view is not None
        return made_by(self.desk, self._served, None, self._adapters, self._settings, view)


def made_by(
    desk: Desk, served: str, preset: str | None, adapters: dict[str, float],
    settings: GenerationSettings, view: StoryView, model: str | None = None,
) -> Setup:  # fmt: skip
    """The record of how a passage is made; called in the scheduler's thread."""
    engine = desk.studio.engine
    loaded = engine.model if model is None else engine.loaded(model).model
    assert loaded is not None
    name = desk.studio.settings.preset if preset is None else preset
    weights = engine.backend(served).name
    return setup_of(loaded.name, adapters, name, settings, weights, view)


def extend(story: Story, head: int) -> None:
    """Let the last step lead to ``head``."""
    state = story.state
    heads = {**dict(state.heads), state.branch: head}
    story.history[story.cursor] = dataclasses.replace(state, heads=tuple(heads.items()))


def grow(story: Story, passage: int, text: str) -> None:
    """Give a passage that is still written its text so far."""
    story.passages[passage] = dataclasses.replace(story.passages[passage], text=text)


def read_ahead(desk: Desk, model: LoadedModel) -> Generator[None, None, None]:
    """Let the model read the end of the story, block by block, so that it can go on at once."""
    from ..generation.row import Pinned, make_view
    from ..generation.text import encode, vocabulary
    from ..models.forward.native_backend import BLOCK

    yield
    engine = desk.studio.engine
    if engine.model is not model:
        return
    backend = engine.backend(engine.served())
    yield
    view = desk.view()
    words = vocabulary(model.tokenizer)
    seen = make_view(
        encode(model.tokenizer, view.prompt), words, context_length=model.context_length,
        bos_id=model.bos_id,
        pinned=Pinned(encode(model.tokenizer, view.memory), encode(model.tokenizer, view.note)),
    )  # fmt: skip
    ids = list(seen.ids)
    yield
    context, logits = backend.begin(ids, min(model.context_length, len(ids) + BLOCK))
    while logits is None:
        start = context.lengths[0]
        count = min(len(ids) - start, BLOCK - start % BLOCK)
        found = context.prefill(ids[start : start + count])
        if start + count == len(ids):
            logits = found
            backend.keep(ids, context, logits)
        yield
