"""A story as a tree of passages with a history of states, for undo, retry and branches.

Passages are only added, never changed. What changes is the state: the last passage of each branch,
memory, note, lore and title. Every operation appends a state to the history, so undo is a step back
in a list, and a retry leaves the earlier version in the tree.

    The lamp went out. ─┬─ Nobody moved. ─── Then the sea …     (main)
                        └─ “Who is there?” ─── she asked.       (the voice)

Trade-off: since passages never change, an edit in mid-story copies the passages after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError

NOTHING = -1  # the parent of a first passage, the head of an empty story
MAIN = "main"
CHOICES = ("pick", "retry", "undo", "redo", "edit", "token")
"""Kinds of choices."""
_MOST_STATES = 10_000
# Shorter passages could be found anywhere in an edited text.
_LEAST_FOUND = 20


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the model made a passage; with its seed and the text before it, it can be made again.

    Attributes:
        model: Name of the model.
        adapters: Adapter folders and their weights; none for a base model.
        preset: The preset, if one was chosen.
        settings: All generation settings but the seed, with the weight format that was used.
        memory: Text at the front of the model's view, lore included.
        note: Text near its end.
    """

    model: str
    adapters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    preset: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of the story.

    Attributes:
        id: Its index in the list of all passages.
        parent: Id of the passage before it, or :data:`NOTHING`.
        text: The text that it adds to the story.
        by: ``writer`` (the user), ``model``, or ``chapter`` for a heading.
        setup: How the model made it.
        seed: Random seed of the model's passage.
        start: First character of the story in the model's view before it.
        copy_of: Id of the passage whose text, or its beginning, it repeats.
    """

    id: int
    parent: int
    text: str
    by: str = "writer"
    setup: Setup | None = None
    seed: int | None = None
    start: int = 0
    copy_of: int | None = None


@dataclasses.dataclass(frozen=True)
class Lore:
    """An entry of lore (world info): its text is in view while its key words are near the end.

    A key is a word, a regular expression between slashes (``/ledgers?/i``), or several of these
    with `` & `` between them, which must all occur.

    Attributes:
        keys: Keys of which one must occur.
        text: Its text.
        always: Whether it is in view in any case.
        secondary: Keys of which one must occur as well, if there are any.
        excluding: Keys of which none may occur.
        probability: In percent; drawn once for each place in the story.
    """

    keys: tuple[str, ...]
    text: str
    always: bool = False
    secondary: tuple[str, ...] = ()
    excluding: tuple[str, ...] = ()
    probability: int = 100

    @property
    def name(self) -> str:
        """Its first key word."""
        return self.keys[0] if self.keys else "always"

    @property
    def condition(self) -> str:
        """When it is in view, in words."""
        parts = [", ".join(self.keys) or ("(always)" if self.always else "(no key word)")]
        parts += [f"with {', '.join(self.secondary)}"] if self.secondary else []
        parts += [f"without {', '.join(self.excluding)}"] if self.excluding else []
        parts += [f"{self.probability} %"] if self.probability != 100 else []
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class State:
    """Everything about a story that undo restores.

    Attributes:
        did: Name of the operation that led here.
        branch: Name of the current branch.
        heads: Name of each branch and id of its last passage.
        memory: Text at the front of the model's view.
        note: Text near its end.
        lore: Entries of lore.
        title: Title of the story.
    """

    did: str = "start"
    branch: str = MAIN
    heads: tuple[tuple[str, int], ...] = ((MAIN, NOTHING),)
    memory: str = ""
    note: str = ""
    lore: tuple[Lore, ...] = ()
    title: str = ""

    @property
    def head(self) -> int:
        """Id of the last passage of the current branch."""
        return dict(self.heads)[self.branch]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the writer preferred to what; see :mod:`.choices`.

    Attributes:
        kind: One of :data:`CHOICES`.
        offered: Ids of the passages to choose from, in the order in which they were shown.
        chosen: Id of the one that was taken; None where none was.
        replaced: Ids of the passages that an edit replaced.
        by: Ids of the passages that replaced them; none where they were deleted.
        of: Index of the choice that an undo, or of the undo that a redo, takes back.
        text: For a token, its text before.
        time: When, in UTC (ISO 8601).
        source: ``session``, ``studio`` or ``import``.
    """

    kind: str
    offered: tuple[int, ...] = ()
    chosen: int | None = None
    replaced: tuple[int, ...] = ()
    by: tuple[int, ...] = ()
    of: int | None = None
    text: str = ""
    time: str = ""
    source: str = "session"


class Story:
    """A tree of passages with a history of states.

    Args:
        passages: Passages of an earlier session, each after its parent.
        history: States, oldest first.
        cursor: Index of the current state.
        choices: The writer's choices, oldest first; undo does not reach them.

    Attributes:
        set_aside: Choices of the file that could not be read, as they stand there.
        remarks: What a user should know who opens the story; not saved.
    """

    def __init__(
        self,
        passages: Iterable[Passage] = (),
        history: Iterable[State] = (),
        cursor: int = 0,
        choices: Iterable[Choice] = (),
    ) -> None:
        self.passages = list(passages)
        self.history = list(history) or [State()]
        self.cursor = cursor
        self.choices = list(choices)
        self.set_aside: list[Any] = []
        self.remarks: list[str] = []

    @property
    def state(self) -> State:
        """The current state."""
        return self.history[self.cursor]

    @property
    def version(self) -> tuple[Any, ...]:
        """A value that differs after every change."""
        counts = len(self.history), len(self.passages), len(self.choices)
        return self.cursor, self.state, *counts

    @property
    def text(self) -> str:
        """The text of the current branch."""
        return self.text_at(self.state.head)

    @property
    def last(self) -> Passage | None:
        """The last passage of the current branch."""
        return None if self.state.head == NOTHING else self.passages[self.state.head]

    def path(self, head: int | None = None) -> list[Passage]:
        """The passages from the first to ``head``, by default the last of the branch."""
        place = self.state.head if head is None else head
        found = []
        while place != NOTHING:
            found.append(self.passages[place])
            place = self.passages[place].parent
        return found[::-1]

    def text_at(self, head: int) -> str:
        """The story up to and with passage ``head``."""
        return "".join(passage.text for passage in self.path(head))

    def children(self, parent: int) -> list[Passage]:
        """The passages that follow ``parent``, in the order of writing."""
        return [passage for passage in self.passages if passage.parent == parent]

    def versions(self) -> list[Passage]:
        """The last passage and its siblings: its versions on other branches and retries."""
        return [] if self.last is None else self.children(self.last.parent)

    def ends(self) -> list[Passage]:
        """The leaves that no branch reaches: undone, retried or not picked."""
        reached = {passage.parent for passage in self.passages}
        for _, head in self.state.heads:
            reached.update(passage.id for passage in self.path(head))
        return [passage for passage in self.passages if passage.id not in reached]

    def offer(self, text: str, parent: int | None = None, **details: Any) -> Passage:
        """Add a passage to the tree but not to the branch: an alternative to pick.

        Args:
            text: Its text.
            parent: Id of the passage before it, by default the last one.
            details: Further fields of :class:`Passage`.
        """
        place = self.state.head if parent is None else parent
        passage = Passage(len(self.passages), place, text, **details)
        self.passages.append(passage)
        return passage

    def write(self, text: str, parent: int | None = None, did: str = "", **details: Any) -> Passage:
        """Add a passage to the tree and the branch; see :meth:`offer`."""
        passage = self.offer(text, parent, **details)
        self.go(passage.id, did or f"a passage by the {passage.by}")
        return passage

    def go(self, head: int, did: str = "goto") -> None:
        """Make ``head`` the last passage of the current branch."""
        heads = {**dict(self.state.heads), self.state.branch: head}
        self._push(heads=tuple(heads.items()), did=did)

    def set(self, did: str, **fields: Any) -> None:
        """Change memory, note, lore or title."""
        self._push(did=did, **fields)

    def chapter(self, title: str) -> Passage:
        """Begin a chapter: a heading with an empty line around it."""
        title = " ".join(title.split())
        if not title:
            raise InputError("a chapter needs a title", "as in /chapter The Night Ferry")
        text = self.text
        lead = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        return self.write(f"{lead}{title}\n\n", by="chapter", did="chapter")

    def edit(self, new: str) -> bool:
        """Replace the whole text; unchanged passages keep their record.

        Returns:
            Whether the text changed.
        """
        old, path = self.text, self.path()
        if new == old:
            return False
        same = _common(old, new)
        kept, place = 0, 0
        while kept < len(path) and place + len(path[kept].text) <= same:
            place += len(path[kept].text)
            kept += 1
        parent = path[kept - 1].id if kept else NOTHING
        for text, source in _pieces(new[place:], path[kept:]):
            details: dict[str, Any] = {}
            if source is not None:
                details = {name: getattr(source, name) for name in ("by", "setup", "seed", "start")}
                details["copy_of"] = source.id if source.copy_of is None else source.copy_of
            parent = self.offer(text, parent, **details).id
        self.go(parent, "edit")
        return True

    def branch(self, name: str = "", at: int | None = None) -> str:
        """Start a branch here, or after passage ``at``, and switch to it.

        Returns:
            Its name; a numbered one where none was given.

        Raises:
            InputError: There is a branch of that name.
        """
        heads = dict(self.state.heads)
        name = " ".join(name.split())
        if not name:
            number = len(heads) + 1
            while f"branch {number}" in heads:
                number += 1
            name = f"branch {number}"
        if name in heads:
            raise InputError(f"there is a branch '{name}' already", f"go to it with /goto {name}")
        heads[name] = self.state.head if at is None else at
        self._push(did="branch", branch=name, heads=tuple(heads.items()))
        return name

    def switch(self, name: str) -> None:
        """Switch to the branch of that name."""
        self._push(did="goto", branch=name)

    def undo(self, steps: int = 1) -> list[str]:
        """Undo up to ``steps`` operations; their names."""
        undone = []
        while steps > 0 and self.cursor > 0:
            undone.append(self.state.did)
            self.cursor -= 1
            steps -= 1
        return undone

    def redo(self, steps: int = 1) -> list[str]:
        """Redo up to ``steps`` operations; their names."""
        done = []
        while steps > 0 and self.cursor < len(self.history) - 1:
            self.cursor += 1
            done.append(self.state.did)
            steps -= 1
        return done

    def chapters(self) -> list[tuple[str, str]]:
        """Title and text of each chapter; text before the first heading has no title."""
        found: list[tuple[str, list[str]]] = [("", [])]
        for passage in self.path():
            if passage.by == "chapter":
                found.append((passage.text.strip(), []))
            else:
                found[-1][1].append(passage.text)
        whole = [(title, "".join(texts)) for title, texts in found]
        return whole if whole[0][1].strip() else whole[1:]

    def _push(self, **changes: Any) -> None:
        state = dataclasses.replace(self.state, **changes)
        self.history = [*self.history[: self.cursor + 1], state][-_MOST_STATES:]
        self.cursor = len(self.history) - 1


def _common(old: str, new: str) -> int:
    """Length of the common beginning of two texts."""
    for place, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            return place
    return min(len(old), len(new))


def _pieces(new: str, old: list[Passage]) -> list[tuple[str, Passage | None]]:
    """Split an edited text where passages of the old one occur unchanged.

    Args:
        new: The text after the edit.
        old: The passages that it replaces.

    Returns:
        Texts that join to ``new``, each with the passage that it repeats, if any.
    """
    # Backwards from the end no search is needed, so short passages count as well.
    after: list[tuple[str, Passage | None]] = []
    while old and new.endswith(old[-1].text):
        after.insert(0, (old[-1].text, old[-1]))
        new, old = new.removesuffix(old[-1].text), old[:-1]
    before: list[tuple[str, Passage | None]] = []
    for passage in old:
        if len(passage.text) < _LEAST_FOUND and passage.by != "chapter":
            continue
        place = new.find(passage.text)
        if place >= 0:
            before += [(new[:place], None), (passage.text, passage)]
            new = new[place + len(passage.text) :]
    return [piece for piece in [*before, (new, None), *after] if piece[0]]
