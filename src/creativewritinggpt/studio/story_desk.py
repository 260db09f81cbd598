"""The story that is open in the studio: its text as the pages see it, edits, undo, its file.

The text of the page is that of ``revision`` and the pieces of the passage that is being written. A
command stops that writing first and keeps what is there; commands come one after the other
(``_commands``), and whoever reads or changes the story holds ``lock`` for as long as that takes.

Trade-off: an edit that rests on an older revision is refused, not merged: both texts are shown.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, RunError, UserError
from ..files import same_place
from ..generation.results import Token
from ..generation.sampling.settings import GenerationSettings
from ..story import choices
from ..story.file import FileChanged, StoryFile, free_path, new_path, read_story
from ..story.splice import Typing, splice
from ..story.tree import Choice, Story
from .edits import SOURCE, Change, OtherTab, ReadOnly, Stale, Written, changed, index16, parsed
from .keeper import Keeper
from .offers import Shown, Taste, open_offer
from .outline import Outline, difference, utf16_length
from .preferences import Goal

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from ..story.context import StoryView
    from .shared import Shared

_BURST_SECONDS = 1.5  # longest pause within a burst of typing
_BURST_LENGTH = 400
_PAST = 500  # edits that can be taken back to show what a stale edit meant


class Stoppable(Protocol):
    """Something that is being written."""

    kept: threading.Event

    def stop(self) -> None:
        """End it with what there is."""


ReadAhead = Callable[["Desk", "LoadedModel"], Generator[None, None, None]]


class Desk:
    """The open story.

    Args:
        studio: What the rooms share.
        read_ahead: Lets a model read the end of the story, a block at a time.

    Attributes:
        lock: Held by whoever reads or changes the story.
        story: The story.
        text: Its text as the page sees it.
        revision: Number of the text; it counts up with each change that is no piece of a passage.
        readonly: Why it can't be changed; None if it can.
        tokens: The tokens of each passage that was written here, by its id.
        writing: What is being written.
    """

    def __init__(self, studio: Shared, read_ahead: ReadAhead) -> None:
        self.studio = studio
        self._read_ahead = read_ahead
        self.events = studio.events
        self.lock = threading.RLock()
        self._commands = threading.RLock()
        self.revision = 0
        self.saved = 0
        self.writing: Stoppable | None = None
        self._stop_warming: Callable[[], None] = lambda: None
        self.warm_view: tuple[object, StoryView] | None = None
        self._unsaved_error: str | None = None
        self._ended = False
        self._take(StoryFile(new_path()), Story(), None, named=False)
        self.taste = Taste()
        self.keeper = Keeper(self._save, self._pause)

    # The state.

    def _take(self, file: StoryFile, story: Story, readonly: str | None, named: bool) -> None:
        self.file, self.story, self.readonly = file, story, readonly
        self._named = named
        self.text = story.text
        self.tokens: dict[int, list[Token]] = {}
        self.outline = Outline(story)
        self._told: dict[str, Any] = {}
        self._typing: Typing | None = None
        self._typed_at, self._typed_by = 0.0, ""
        self._past: deque[tuple[int, list[tuple[int, int, str]]]] = deque(maxlen=_PAST)
        self.written: Written | None = None
        self.cards: dict[str, Shown] = {}
        self.warm_view = None
        self.goal = Goal(self.studio.memory, str(file.path.absolute()))

    @property
    def settings(self) -> GenerationSettings:
        """The generation settings."""
        return self.studio.settings.values

    def utf16(self, index: int) -> int:
        """A place in the text in UTF-16 code units."""
        return index if self.text.isascii() else utf16_length(self.text[:index])

    def index(self, place: int) -> int:
        """The character of the text at a place in UTF-16 code units."""
        return index16(self.text, place)

    def state(self) -> dict[str, Any]:
        """Everything that a page needs to begin."""
        with self.lock:
            if self._told == {}:
                self._told = self._fields()
            model = {**self.studio.engine.record(), "weights": self.settings.weights}
            return {
                "epoch": self.events.epoch,
                "n": self.events.n,
                "story": {
                    "id": self.studio.ids.id(self.file.path), "revision": self.revision,
                    "text": self.text, "saved": self.saved, **self._told,
                },
                "model": model,
                "jobs": [job.record() for job in self.studio.jobs.listed()],
                "writer": self.studio.tabs.writer,
                "notes": list(self.studio.notes),
            }  # fmt: skip

    def _fields(self) -> dict[str, Any]:
        fields = self.outline.fields()
        fields["goal"] = self.goal.record(fields["words"])
        fields["file"] = self.file.path.name
        fields["readonly"] = self.readonly
        fields["unsaved"] = self._unsaved_error
        fields["offer"] = open_offer(self.story, self.cards)
        return fields

    def _patch(self) -> dict[str, Any]:
        """The fields that have changed since they were told."""
        before, now = self._told, self._fields()
        self._told = now
        patch = {name: value for name, value in now.items() if before.get(name) != value}
        old = before.get("passages", [])
        if "passages" in patch:
            new = patch["passages"]
            same = 0
            while same < min(len(old), len(new)) and old[same] == new[same]:
                same += 1
            patch["passages"], patch["passages_from"] = new[same:], same
        return patch

    def tell(self, by: str, changes: list[Change] | None = None, patch: bool = True,
             **more: Any) -> None:  # fmt: skip
        """Tell what has become of the story; the text is compared where no changes are given.

        Args:
            by: The tab, ``job:ID`` or ``file``.
            changes: The changes of the text as the page knows it, in characters, in order.
            patch: Whether what is beside the text is told at once.
            more: Further fields of the event.
        """
        before = self.text
        if changes is None:
            now = self.story.text
            begin, end, text = difference(before, now)
            changes = [] if begin == end and not text else [(begin, end, text)]
            self.text = now
        else:
            self.text = changed(before, changes)
        self.revision += 1
        inverse, shift = [], 0
        for begin, end, text in changes:
            inverse.append((begin + shift, begin + shift + len(text), before[begin:end]))
            shift += len(text) - (end - begin)
        self._past.append((self.revision, inverse))
        if not before.isascii():
            changes = [
                (utf16_length(before[:begin]), utf16_length(before[:end]), text)
                for begin, end, text in changes
            ]
        fields = self._patch() if patch else {}
        self.events.publish(
            "story", revision=self.revision, changes=changes, by=by, patch=fields, **more
        )
        self.keeper.touch()

    def _tell_patch(self) -> None:
        """Tell what has changed beside the text, if anything has."""
        patch = self._patch()
        if patch:
            self.events.publish("story", revision=self.revision, changes=[], by="desk", patch=patch)

    def text_of(self, revision: int) -> str | None:
        """The text of an earlier revision; None if it is too long ago."""
        text, now = self.text, self.revision
        for number, inverse in reversed(self._past):
            if number <= revision:
                break
            if number != now:
                return None
            text, now = changed(text, inverse), number - 1
        return text if now == revision else None

    # Commands.

    @contextlib.contextmanager
    def command(self, tab: str | None = None, *, stop: bool = True) -> Iterator[Story]:
        """A change of the story: what is written stops first, and the story is locked.

        Raises:
            OtherTab: Another tab writes.
            ReadOnly: The story can't be changed here.
        """
        with self._commands:
            self._check(tab)
            if stop:
                self.stop_writing()
            with self.lock:
                self.end_typing()
                yield self.story

    def _check(self, tab: str | None) -> None:
        if self.readonly is not None:
            raise ReadOnly(self.readonly, "close it there, then open it here again")
        if not self.studio.tabs.may_write(tab):
            raise OtherTab("another tab writes in this story", "choose Write here in this one")

    def stop_writing(self) -> None:
        """Stop what is being written and wait until it is kept."""
        writing = self.writing
        if writing is not None:
            writing.stop()
            if not writing.kept.wait(60):
                raise RunError("the model does not stop", "wait a little and try again")

    def change(self, tab: str | None, make: Callable[[Story], Any]) -> Any:
        """A command that changes the story by ``make``, and tells what has become of it."""
        with self.command(tab) as story:
            found = make(story)
            self.tell(tab or "")
        return found

    def edit(
        self,
        revision: Any,
        tab: str | None,
        changes: Sequence[Sequence[Any]],
        n: int | None = None,
        edit: str | None = None,
    ) -> int:
        """Edit the text.

        Args:
            revision: The revision that the edit rests on.
            tab: The tab.
            changes: Begin, end and new text of each part, in order, in UTF-16 code units of the
                text that the page showed.
            n: The last event that the page had applied.
            edit: The page's name of the edit, for the event.

        Returns:
            The new revision.

        Raises:
            Stale: The text has changed since.
            InputError: The changes are none.
        """
        with self._commands:
            self._check(tab)
            with self.lock:
                writing = self.writing
                known = revision == self.revision or (
                    writing is None and self.written is not None
                    and self.written.revision == self.revision == revision + 1
                )  # fmt: skip
                if not known:
                    raise self._stale(revision, changes)
            self.stop_writing()
            with self.lock:
                base, rest = self.text, 0
                written = self.written
                if revision != self.revision:
                    if written is None or written.revision != self.revision != revision + 1:
                        raise self._stale(revision, changes)
                    rest = len(written.text) - written.length_at(n)
                    base = self.text[: len(self.text) - rest]
                parts = parsed(base, changes)
                # What was typed at the end stands behind what the page had not seen yet.
                parts = [
                    (begin + rest, end + rest, text) if begin == len(base) else (begin, end, text)
                    for begin, end, text in parts
                ]
                self._edit(parts, tab or "")
                self.tell(tab or "", parts, patch=len(parts) > 1, edit=edit)
                return self.revision

    def _edit(self, parts: list[Change], by: str) -> None:
        now = time.monotonic()
        if len(parts) == 1:
            begin, end, text = parts[0]
            typing = self._typing
            if (
                typing is None
                or now - self._typed_at > _BURST_SECONDS
                or by != self._typed_by
                or len(typing.insert) > _BURST_LENGTH
                or typing.insert.endswith("\n")
                or not typing.takes(begin, end)
            ):
                self.end_typing()
                self._typing = Typing(self.story, begin, end, text)
            else:
                typing.go_on(begin, end, text)
            self.outline.forget(self._typing.mark if self._typing is not None else 0)
            self._typed_at, self._typed_by = now, by
            return
        self.end_typing()
        if not parts:
            return
        story = self.story
        before, history, cursor = story.path(), story.history, story.cursor
        for begin, end, text in reversed(parts):
            splice(story, begin, end, text)
        story.history, story.cursor = [*history[: cursor + 1], story.state], cursor + 1
        choices.record_edit(story, before, SOURCE)

    def end_typing(self) -> None:
        """End the burst of typing: the next edit is a step of its own."""
        typing, self._typing = self._typing, None
        if typing is None or typing.spliced is None:
            return
        touched = [self.story.passages[id] for id in typing.spliced.touched]
        if any(passage.by == "model" for passage in touched) and typing.open:
            self.story.choices.append(
                Choice(
                    "edit", replaced=typing.spliced.touched, by=typing.spliced.made, source=SOURCE,
                    time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                )
            )  # fmt: skip

    def _stale(self, revision: Any, changes: Sequence[Sequence[Any]]) -> Stale:
        yours = None
        base = self.text_of(revision) if isinstance(revision, int) else None
        if base is not None:
            with contextlib.suppress(InputError):
                yours = changed(base, parsed(base, changes))
        return Stale(
            "the text has changed since you typed", "both versions are shown; take what you need",
            revision=self.revision, text=self.text, yours=yours,
        )  # fmt: skip

    def snapshot(self) -> Story:
        """A copy of the story as it is now, to be read without the lock."""
        with self.lock:
            story = self.story
            copy = Story(story.passages, story.history, story.cursor)
            copy.choices, copy.set_aside = list(story.choices), list(story.set_aside)
            return copy

    # The model's view.

    def view_key(self, story: Story) -> object:
        """What a view of the story depends on."""
        last = story.last
        state = story.state
        return (
            self.studio.engine.signature, state.head, last.text if last else "", state.memory,
            state.note, state.lore, self.settings.seed,
        )  # fmt: skip

    def view(self) -> StoryView:
        """The model's view of the story as it is now.

        Raises:
            InputError: There is no model yet, or memory and note are too long for it.
        """
        model = self.studio.engine.model
        if model is None:
            raise InputError("there is no model yet", "wait until it is loaded")
        from ..story.context import story_view

        story = self.snapshot()
        key = self.view_key(story)
        known = self.warm_view
        if known is not None and known[0] == key:
            return known[1]
        view = story_view(model, story, seed=self.settings.seed)
        self.warm_view = key, view
        return view

    def view_at(self, parent: int, model: LoadedModel | None = None) -> StoryView:
        """The view of a model, by default of the one that writes, after a passage.

        Raises:
            InputError: There is no model yet, or memory and note are too long for it.
        """
        own = self.studio.engine.model
        story = self.snapshot()
        if parent == story.state.head and (model is None or model is own):
            return self.view()
        if own is None:
            raise InputError("there is no model yet", "wait until it is loaded")
        from ..story.context import story_view

        return story_view(model or own, story, parent, self.settings.seed)

    def outline_changed(self) -> None:
        """Tell what has changed beside the text, and save it."""
        with self.lock:
            self._tell_patch()
            self.keeper.touch()

    def warm(self) -> None:
        """Let the model read the story while nothing else is to be done."""
        self._stop_warming()
        engine = self.studio.engine
        with self.lock:
            idle = engine.state == "ready" and self.writing is None and not self._ended
        if idle:
            with contextlib.suppress(UserError):
                self._stop_warming = engine.idle_work(
                    lambda model, job: self._read_ahead(self, model)
                )

    # The file.

    def _pause(self) -> None:
        """The writer pauses."""
        with self.lock:
            self._tell_patch()
        if self.writing is None:
            self.warm()

    def _save(self) -> bool:
        """Save the story; whether that succeeded. What fails is said once."""
        with self.lock:
            if self.readonly is not None:
                return True
            story, revision, file = self.snapshot(), self.revision, self.file
        try:
            if not self._named and not file.locked:
                file = self.file = StoryFile(free_path(file.path))
            file.save(story)
        except FileChanged as error:
            return self._save_beside(error)
        except (UserError, OSError, ValueError) as error:
            text = error.message if isinstance(error, UserError) else str(error)
            advice = error.advice if isinstance(error, UserError) else None
            if text != self._unsaved_error:
                self._unsaved_error = text
                self.studio.note(f"not saved: {text}", "error", advice or "it is tried again")
                with self.lock:
                    self._tell_patch()
            return False
        if self._unsaved_error is not None:
            self._unsaved_error = None
            self.studio.note("saved again")
            with self.lock:
                self._tell_patch()
        if not self._named:
            self._named = True
            with self.lock:
                self.goal = Goal(self.studio.memory, str(file.path.absolute()))
                self._tell_patch()
        self.saved = revision
        self.studio.memory_story(file.path)
        self.events.publish("saved", revision=revision, file=file.path.name)
        return True

    def _save_beside(self, error: UserError) -> bool:
        """Go on in a new file where another program has changed the story's."""
        before = self.file
        beside = StoryFile(free_path(before.path))
        self.file, self._named = beside, False
        before.close()
        self.studio.note(
            f"{before.path.name} was changed by another program and stays as that left it; this "
            f"story goes on in {beside.path.name}", "warning", error.advice, lasting=True,
        )  # fmt: skip
        return self._save()

    def open(self, path: Path) -> list[str]:
        """Switch to the story in a file; one that another program has is opened to be read.

        Returns:
            Remarks.

        Raises:
            UserError: It can't be read, or the story before can't be saved.
        """
        with self._commands:
            self.stop_writing()
            same = same_place(path, self.file.path)
            if same and self.readonly is None and self._named:
                return []
            file, readonly = StoryFile(path), None
            try:
                story = file.open()
            except InputError as error:
                if "another session" not in error.message:
                    raise
                story, readonly = read_story(path), error.message
            named = path.exists()
            try:
                self._leave()
            except BaseException:
                file.close()
                raise
            self._switch(file, story, readonly, named)
            return list(story.remarks)

    def begin(self, story: Story | None = None, path: Path | None = None) -> None:
        """Switch to a new story, perhaps an imported one, in a file of its own."""
        with self._commands:
            self.stop_writing()
            self._leave()
            file = StoryFile(free_path(path) if path is not None else new_path())
            self._switch(file, story or Story(), None, False)
            if story is not None:
                self.keeper.touch()

    def new(self) -> None:
        """Switch to a new, empty story."""
        self.begin()

    def _switch(self, file: StoryFile, story: Story, readonly: str | None, named: bool) -> None:
        with self.lock:
            self._take(file, story, readonly, named)
            self.revision += 1
            self.saved = self.revision
            fields = self._told = self._fields()
            fields = {**fields, "id": self.studio.ids.id(file.path)}
            self.events.publish(
                "story", revision=self.revision, changes=None, by="file", patch=fields
            )
        if named:
            self.studio.memory_story(file.path)
        if readonly is not None:
            self.studio.note(f"{readonly}; it can be read here", "warning")
        for remark in story.remarks:
            self.studio.note(remark, "warning")
        self.warm()

    def _leave(self) -> None:
        """Save the story that is open and free its file."""
        with self.lock:
            self.end_typing()
        if not self.keeper.flush():
            raise RunError(self._unsaved_error or "the story could not be saved")
        self.file.close()

    def close(self, seconds: float = 5.0) -> None:
        """Stop the writing and save."""
        writing = self.writing
        if writing is not None:
            writing.stop()
            writing.kept.wait(seconds)
        with self.lock:
            self.end_typing()
        self.keeper.flush()

    def end(self) -> None:
        """Save what is left and free the file."""
        if self._ended:
            return
        self._ended = True
        self.keeper.close()
        self.keeper.flush()
        self.file.close()
