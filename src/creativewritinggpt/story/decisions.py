"""Decisions: the writer's choices with their texts, ready to learn from, and what was left out.

A choice names passages; a decision holds one context, the text that was preferred there and those
it was preferred to. Choices that later ones take back, alternatives that were written under another
memory, note or model, and alternatives that hardly differ teach nothing about taste: they are left
out and counted by reason.

Stories from before choices were recorded are read from their tree and history: siblings, retries,
edits and what no branch reaches. Trade-off: what is inferred knows no order on the screen.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from .choices import origin, replaced_passages, taken_back
from .tree import NOTHING, Choice, Passage, Story

INFERRED = "inferred"
"""Source of choices that were not recorded but read from the tree."""
ALIKE = 0.9
"""Share of equal words from which on an alternative is left out."""
WEIGHTS = {"pick": 1.0, "retry": 0.5, "undo": 0.3, "token": 0.3, "edit": 1.0, "rejected": 0.1}
"""What a decision counts by its kind; ``rejected``: one without a text that was preferred."""
_WHOLE_EDIT = 8  # changed words from which on an edit counts in full

_SAME = "the same text"
_NEAR = f"over {ALIKE:.0%} the same words"
_CONTEXT = "memory, lore or note differed"
_MODEL = "written by another model, or by the base"


@dataclasses.dataclass(frozen=True)
class Decision:
    """One decision of the writer.

    Attributes:
        kind: ``pick``, ``retry``, ``undo``, ``edit`` or ``token``.
        prompt: The text before.
        chosen: The text that was preferred; None where one was only rejected.
        rejected: The texts it was preferred to.
        weight: What it counts, whatever the number of rejected texts.
        memory: Text at the front of the model's view, lore included.
        note: Text near its end.
        model: Name of the model that wrote the alternatives.
        place: Place of the chosen text on the screen, from 0; None where it is not known.
        shown: Number of texts on the screen.
        source: ``session``, ``studio``, ``import``, ``inferred`` or ``file``.
        time: When, in UTC, if that is known.
        where: Name of the file.
    """

    kind: str
    prompt: str
    chosen: str | None
    rejected: tuple[str, ...]
    weight: float
    memory: str = ""
    note: str = ""
    model: str = ""
    place: int | None = None
    shown: int = 0
    source: str = "file"
    time: str = ""
    where: str = ""


@dataclasses.dataclass
class Decisions:
    """Decisions, and what was left out.

    Attributes:
        used: The decisions.
        left_out: Choices that are no decisions, by reason.
        alternatives_left_out: Alternatives of decisions that are used, by reason.
        recorded: Number of choices that were recorded.
        inferred: Number of choices that were read from trees.
        remarks: What a user should know.
    """

    used: list[Decision] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    alternatives_left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    recorded: int = 0
    inferred: int = 0
    remarks: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Decisions) -> None:
        """Add those of another file; a decision that is there already is counted as a copy."""
        known = {_key(one) for one in self.used}
        for one in other.used:
            if _key(one) in known:
                self.left_out["the same decision in another file"] += 1
            else:
                self.used.append(one)
        self.left_out += other.left_out
        self.alternatives_left_out += other.alternatives_left_out
        self.recorded += other.recorded
        self.inferred += other.inferred
        self.remarks += other.remarks

    def drop_contradicting(self) -> None:
        """Leave out decisions that prefer A to B where another prefers B to A, same prompt."""
        pairs: dict[tuple[str, str, str], list[int]] = {}
        for number, one in enumerate(self.used):
            for text in one.rejected if one.chosen is not None else ():
                pairs.setdefault((one.prompt, one.chosen or "", text), []).append(number)
        wrong: set[int] = set()
        for (prompt, chosen, rejected), numbers in pairs.items():
            opposite = pairs.get((prompt, rejected, chosen))
            if opposite:
                wrong.update(numbers)
        self.left_out["contradicted by another choice"] += len(wrong)
        self.left_out += Counter()  # zero counts go
        self.used = [one for number, one in enumerate(self.used) if number not in wrong]


def decisions(story: Story, where: str = "") -> Decisions:
    """The decisions of a story, recorded and inferred.

    Args:
        story: The story.
        where: Name of its file.
    """
    inferred = list(infer(story))
    reader = _Reader(story, where)
    found = reader.read([*story.choices, *inferred])
    found.recorded = sum(choice.kind != "redo" for choice in story.choices)
    found.inferred = len(inferred)
    found.remarks = list(story.remarks)
    return found


def infer(story: Story) -> Iterator[Choice]:
    """The choices of a story that show in its tree and history and were not recorded."""
    recorded = {place for choice in story.choices for place in _named(choice)}
    known = set(recorded)
    for choice in _from_history(story):
        if not _named(choice) & recorded:
            yield choice
            known |= _named(choice)
    for choice in _from_tree(story):
        if not {*choice.offered} & known:
            yield choice
            known.update(choice.offered)


def alike(one: str, other: str) -> float:
    """Share of words that two texts have in common in the same order; 0…1."""
    matcher = difflib.SequenceMatcher(None, one.split(), other.split(), autojunk=False)
    bound = matcher.quick_ratio()
    return bound if bound <= ALIKE else matcher.ratio()


class _Reader:
    """Turns the choices of one story into decisions."""

    def __init__(self, story: Story, where: str) -> None:
        self.story = story
        self.where = where
        self.found = Decisions()
        self.kept = _living(story)
        self.judged: set[int] = set()  # passages that a pick or a retry judges

    def read(self, choices: Sequence[Choice]) -> Decisions:
        gone = taken_back(self.story)
        valid = [choice for index, choice in enumerate(choices) if index not in gone]
        undone = {id(choices[index]) for index in gone}
        edits = [choice for choice in valid if choice.kind == "edit"]
        for choice in edits:
            self.kept.update(choice.replaced)  # kept, and then edited
        self._picks([choice for choice in choices if choice.kind == "pick"], undone)
        self._retries([choice for choice in choices if choice.kind == "retry"])
        for number, choice in enumerate(edits):
            self._edit(choice, edits[number + 1 :])
        for choice in valid:
            if choice.kind == "undo" and choice.of is None:
                self._undone(choice)
            elif choice.kind == "token":
                self._token(choice)
        return self.found

    def _picks(self, picks: Sequence[Choice], undone: Collection[int]) -> None:
        answered: list[set[int]] = []
        named: list[set[int]] = []
        for choice in reversed(picks):  # the last choice among the same passages holds
            offered = set(choice.offered)
            before = any(offered & one for one in answered)
            if choice.chosen is None:
                if not any(offered & one for one in named):
                    self.found.left_out["shown, and none taken"] += 1
            elif id(choice) in undone:
                self.found.left_out["taken back"] += 1
            elif before:
                self.found.left_out["a later choice among the same passages holds"] += 1
            else:
                self._compare(choice, choice.chosen, choice.offered)
            if choice.chosen is not None:
                named.append(offered)
                if id(choice) not in undone:
                    answered.append(offered)
            self.judged |= offered

    def _retries(self, retries: Sequence[Choice]) -> None:
        """One decision for all versions at one place; an undone retry speaks for the one before."""
        groups: dict[int, list[Choice]] = {}
        for choice in retries:
            groups.setdefault(self.story.passages[choice.offered[0]].parent, []).append(choice)
        for group in groups.values():
            versions = list(dict.fromkeys(place for one in group for place in one.offered))
            left = [place for place in versions if place in self.kept]
            if set(versions) & self.judged:
                self.found.left_out["a later choice among the same passages holds"] += 1
            elif not left:
                self.found.left_out["no version was kept"] += 1
            else:
                self._compare(group[-1], left[-1], versions)
            self.judged.update(versions)

    def _compare(self, choice: Choice, chosen: int, offered: Sequence[int]) -> None:
        """Add the decision for one passage against the others that were offered with it."""
        passages = self.story.passages
        others = [passages[place] for place in offered if place != chosen]
        self._add(choice, passages[chosen], others, WEIGHTS[choice.kind], chosen, offered)

    def _add(
        self,
        choice: Choice,
        chosen: Passage,
        others: Sequence[Passage],
        weight: float,
        place: int,
        offered: Sequence[int],
    ) -> None:
        kept: list[Passage] = []
        reasons: list[str] = []
        for other in others:
            reason = _unfit(chosen, other)
            if reason:
                reasons.append(reason)
            elif all(other.text.strip() != one.text.strip() for one in kept):
                kept.append(other)
            else:
                reasons.append(_SAME)
        if not kept:
            self.found.left_out[reasons[0] if reasons else "one alternative only"] += 1
            return
        self.found.alternatives_left_out.update(reasons)
        seen = choice.kind == "pick" and choice.source in ("session", "studio")
        self._keep(
            choice, chosen.parent, chosen.text, tuple(one.text for one in kept), weight, kept[0],
            place=list(offered).index(place) if seen else None, shown=len(offered) if seen else 0,
        )  # fmt: skip

    def _keep(
        self,
        choice: Choice,
        parent: int,
        chosen: str | None,
        rejected: tuple[str, ...],
        weight: float,
        made: Passage,
        place: int | None = None,
        shown: int = 0,
    ) -> None:
        setup = made.setup
        context = ("", "", "") if setup is None else (setup.memory, setup.note, setup.model)
        self.found.used.append(
            Decision(
                choice.kind, self.story.text_at(parent), chosen, rejected, weight, *context,
                place, shown, choice.source, choice.time, self.where,
            )
        )  # fmt: skip

    def _undone(self, choice: Choice) -> None:
        [place] = choice.offered[:1] or [NOTHING]
        if place == NOTHING or place in self.judged:
            return
        passage = self.story.passages[place]
        if place in self.kept or origin(passage) in self.kept:
            self.found.left_out["undone, and kept after all"] += 1
        elif passage.parent != NOTHING and passage.parent not in self.kept:
            self.found.left_out["the text before it was taken back, too"] += 1
        else:
            after = [
                one
                for one in self.story.children(passage.parent)
                if one.id in self.kept and one.id > place and one.by != "chapter"
            ]
            if after:
                self._add(choice, after[-1], [passage], WEIGHTS["undo"], place, [place])
            else:
                self._keep(
                    choice, passage.parent, None, (passage.text,), WEIGHTS["rejected"], passage
                )

    def _edit(self, choice: Choice, later: Iterable[Choice]) -> None:
        passages = self.story.passages
        old = [passages[place] for place in choice.replaced]
        made = next((one for one in old if one.by == "model"), None)
        if made is None:
            return  # a further edit of one's own words: the first edit follows it
        new = set(choice.by)
        for other in later:
            if new & set(other.replaced):
                new = (new - set(other.replaced)) | set(other.by)
        before, parent = "".join(one.text for one in old), old[0].parent
        if not new:
            self._keep(choice, parent, None, (before,), WEIGHTS["rejected"], made)
        elif not new & self.kept:
            self.found.left_out["an edit that was not kept"] += 1
        else:
            after = "".join(passages[place].text for place in sorted(new))
            changed = _changed_words(before, after)
            if not changed:
                self.found.left_out[_SAME] += 1
            else:
                weight = WEIGHTS["edit"] * min(1.0, changed / _WHOLE_EDIT)
                self._keep(choice, parent, after, (before,), weight, made)

    def _token(self, choice: Choice) -> None:
        if choice.chosen is None or choice.chosen not in self.kept:
            self.found.left_out["another token, not kept"] += 1
            return
        chosen = self.story.passages[choice.chosen]
        original = self.story.passages[choice.offered[0]]
        if chosen.text == choice.text or not choice.text:
            self.found.left_out[_SAME] += 1
            return
        self._keep(choice, chosen.parent, chosen.text, (choice.text,), WEIGHTS["token"], original)


def _living(story: Story) -> set[int]:
    """Ids of the passages that a branch reaches, and of those that such passages repeat."""
    path = [one for _, head in story.state.heads for one in story.path(head)]
    return {one.id for one in path} | {origin(one) for one in path}


def _named(choice: Choice) -> set[int]:
    """Ids of all passages that a choice names."""
    chosen = set() if choice.chosen is None else {choice.chosen}
    return {*choice.offered, *choice.replaced, *choice.by} | chosen


def _unfit(chosen: Passage, other: Passage) -> str:
    """Why ``other`` can't be compared with the chosen passage; empty where it can."""
    one, two = chosen.setup, other.setup
    if one is not None and two is not None:
        if (one.memory, one.note) != (two.memory, two.note):
            return _CONTEXT
        if (one.model, dict(one.adapters)) != (two.model, dict(two.adapters)):
            return _MODEL
    if chosen.text.strip() == other.text.strip():
        return _SAME
    return _NEAR if alike(chosen.text, other.text) > ALIKE else ""


def _changed_words(before: str, after: str) -> int:
    """Number of words that an edit removed or added, whichever is more; at least 1 if they differ.

    Words at both ends that are equal are cut before, since only the region of the edit counts.
    """
    old, new = before.split(), after.split()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return max(len(old), len(new), int(before != after))


def _from_history(story: Story) -> Iterator[Choice]:
    """Picks, retries and edits that the states of a story name."""
    passages = story.passages
    for before, state in zip(story.history, story.history[1:], strict=False):
        if state.head == NOTHING or state.head == before.head:
            continue
        head = passages[state.head]
        if state.did == "retry" and before.head != NOTHING:
            last = passages[before.head]
            if last.parent == head.parent and last.by == head.by == "model":
                yield Choice("retry", (last.id, head.id), head.id, source=INFERRED)
        elif state.did == "pick" and head.by == "model":
            shown = _run(story, head)
            if len(shown) > 1:
                yield Choice("pick", tuple(shown), head.id, source=INFERRED)
        elif state.did == "edit":
            for old, new in replaced_passages(story.path(before.head), story.path(state.head)):
                if any(passage.by == "model" for passage in old):
                    ids = tuple(one.id for one in old), tuple(one.id for one in new)
                    yield Choice("edit", replaced=ids[0], by=ids[1], source=INFERRED)


def _from_tree(story: Story) -> Iterator[Choice]:
    """Versions of other programs, offers without a pick, and passages that were undone."""
    if story.history[0].did == "import":
        for passage in story.path(story.history[0].head):
            versions = [one for one in story.children(passage.parent) if one.by == "model"]
            others = [one.id for one in versions if one.id < passage.id and one.setup is None]
            if passage.by == "model" and others:
                yield Choice("retry", (*others, passage.id), passage.id, source="import")
    living = _living(story)
    for passage in story.ends():
        if passage.by == "model" and origin(passage) not in living:  # copied by an edit
            shown = _run(story, passage)
            kind = "undo" if len(shown) == 1 else "pick"
            yield Choice(kind, tuple(shown), source=INFERRED)


def _run(story: Story, passage: Passage) -> list[int]:
    """Ids of the versions that were written together with a passage: same setup, in a row."""
    found = [passage.id]
    for step in (-1, 1):
        place = passage.id + step
        while 0 <= place < len(story.passages):
            other = story.passages[place]
            if (other.parent, other.by, other.setup) != (passage.parent, "model", passage.setup):
                break
            found.append(place)
            place += step
    return sorted(found)


def _key(decision: Decision) -> tuple[str, str, str | None, tuple[str, ...]]:
    return decision.kind, decision.prompt, decision.chosen, decision.rejected
