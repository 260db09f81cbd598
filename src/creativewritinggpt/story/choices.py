"""The writer's choices, recorded as they are made: what was preferred to what.

Each function does what its name says to the story and appends a :class:`~.tree.Choice`. The record
is evidence, so undo does not remove it: an undone choice is marked by a later record of kind
``undo`` that names it, and a redo of that by one of kind ``redo``.

    pick    taken from passages that were shown; with nothing chosen: shown, and so far not taken
    retry   a further version in the place of one by the model
    undo    a passage by the model taken back, or a choice (``of``)
    redo    an undo taken back (``of``)
    edit    passages, one of them by the model, replaced by the writer's
    token   another token in the place of one; what was offered is the passage that held it
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence

from .tree import Choice, Passage, State, Story


def offer(story: Story, offered: Sequence[int], source: str = "session") -> None:
    """Record that passages were shown to choose from."""
    if len(offered) > 1:
        _record(story, Choice("pick", tuple(offered), source=source))


def pick(story: Story, offered: Sequence[int], chosen: int, source: str = "session") -> None:
    """Make one of the passages that were shown the last of the branch.

    Args:
        story: The story.
        offered: Ids of the passages, in the order in which they were shown.
        chosen: Id of the one that is taken.
        source: ``session`` or ``studio``.
    """
    story.go(chosen, "pick")
    if len(offered) > 1:
        _record(story, Choice("pick", tuple(offered), chosen, source=source))


def retry(story: Story, before: int, new: int, source: str = "session") -> None:
    """Record that a further version, ``new``, is on the branch in the place of ``before``."""
    _record(story, Choice("retry", (before, new), new, source=source))


def token(story: Story, original: int, before: str, source: str = "session") -> None:
    """Record that the last passage is a token chosen in the place of another.

    Args:
        story: The story; its last passage is the chosen token.
        original: Id of the passage in which another token stood there.
        before: Text of that token.
        source: ``session`` or ``studio``.
    """
    _record(story, Choice("token", (original,), story.state.head, text=before, source=source))


def edit(story: Story, new: str, source: str = "session") -> bool:
    """Replace the whole text; see :meth:`Story.edit` and :func:`record_edit`.

    Returns:
        Whether the text changed.
    """
    before = story.path()
    changed = story.edit(new)
    if changed:
        record_edit(story, before, source)
    return changed


def record_edit(story: Story, before: Sequence[Passage], source: str = "session") -> None:
    """Record which passages an edit replaced, one choice for each place in the text.

    Added text is no judgement on what stood there, and a passage that was copied is not replaced.
    Of passages by the writer only those count that replaced the model's in an earlier edit.

    Args:
        story: The story after the edit.
        before: Its path before.
        source: ``session`` or ``studio``.
    """
    own = {place for choice in story.choices if choice.kind == "edit" for place in choice.by}
    for old, new in replaced_passages(before, story.path()):
        if any(passage.by == "model" or passage.id in own for passage in old):
            ids = tuple(passage.id for passage in old), tuple(passage.id for passage in new)
            _record(story, Choice("edit", replaced=ids[0], by=ids[1], source=source))


def replaced_passages(
    before: Sequence[Passage], after: Sequence[Passage]
) -> Iterator[tuple[list[Passage], list[Passage]]]:
    """The places in which two paths differ: passages of the first and those of the second.

    A copy counts as the passage that it repeats. Pairs without passages of the first are left out.
    """
    there = {origin(passage) for passage in after}
    known = {origin(passage) for passage in before}
    for old, new in zip(_gaps(before, there), _gaps(after, known), strict=False):
        if old:
            yield old, new


def undo(story: Story, steps: int = 1, source: str = "session") -> list[str]:
    """Undo up to ``steps`` operations, and record the choices and passages of the model among them.

    Returns:
        Names of the operations.
    """
    undone: list[str] = []
    for _ in range(steps):
        state = story.state
        name = story.undo()
        if not name:
            break
        undone += name
        if state.head == story.state.head or state.branch != story.state.branch:
            continue
        led = list(_led_to(story, state, story.state))
        for index in led:
            _record(story, Choice("undo", of=index, source=source))
        if led or state.head < 0:
            continue
        last = story.passages[state.head]
        if last.by == "model" and last.parent == story.state.head:
            _record(story, Choice("undo", (last.id,), source=source))
    return undone


def redo(story: Story, steps: int = 1, source: str = "session") -> list[str]:
    """Redo up to ``steps`` operations, and record that their undo is taken back.

    Returns:
        Names of the operations.
    """
    done: list[str] = []
    for _ in range(steps):
        before = story.state
        name = story.redo()
        if not name:
            break
        done += name
        if before.head == story.state.head or before.branch != story.state.branch:
            continue
        gone = taken_back(story)
        led = set(_led_to(story, story.state, before, undone=True))
        for index, choice in enumerate(list(story.choices)):
            if choice.kind == "undo" and index not in gone:
                one = choice.of in led if choice.of is not None else False
                if one or choice.offered == (story.state.head,):
                    _record(story, Choice("redo", of=index, source=source))
    return done


def taken_back(story: Story) -> set[int]:
    """Indices of the choices that later ones take back; an undo that was redone is among them."""
    gone: set[int] = set()
    for choice in story.choices:
        if choice.of is None:
            continue
        gone.add(choice.of)
        undone = story.choices[choice.of].of
        if choice.kind == "redo" and undone is not None:
            gone.discard(undone)
    return gone


def _led_to(story: Story, state: State, before: State, undone: bool = False) -> Iterator[int]:
    """Indices of the choices by which the story came from ``before`` to ``state``.

    Args:
        story: The story.
        state: The state after the choice.
        before: The state before it.
        undone: Whether choices that were taken back are meant.
    """
    gone = taken_back(story)
    now = {passage.id for passage in story.path(state.head)}
    then = {passage.id for passage in story.path(before.head)}
    for index in range(len(story.choices) - 1, -1, -1):
        choice = story.choices[index]
        if (index in gone) != undone:
            continue
        if choice.kind == "edit":
            new, old = set(choice.by), set(choice.replaced)
            if new <= now - then and old <= then - now:
                yield index
        elif choice.kind in ("pick", "retry", "token") and choice.chosen == state.head:
            yield index
            return


def _gaps(path: Iterable[Passage], kept: set[int]) -> list[list[Passage]]:
    """The runs of passages between those whose origin is in ``kept``, empty ones included."""
    gaps: list[list[Passage]] = [[]]
    for passage in path:
        if origin(passage) in kept:
            gaps.append([])
        else:
            gaps[-1].append(passage)
    return gaps


def origin(passage: Passage) -> int:
    """Id of the passage whose text, or its beginning, it repeats; its own otherwise."""
    return passage.id if passage.copy_of is None else passage.copy_of


def _record(story: Story, choice: Choice) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fields = {**vars(choice), "time": now}
    story.choices.append(Choice(**fields))
