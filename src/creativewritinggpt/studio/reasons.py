"""Why a word of the story is there: the quick answer (:mod:`..analysis.why`), over the text itself.

What the model reads is its view of the story as it is now, as for the terminal's ``/why``; of a
word that has fallen out of it, the view in which it stood when its passage was written.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..story.context import StoryView, passage_parts, story_view

if TYPE_CHECKING:
    from ..analysis.why import Piece, Reason
    from ..models.loaded_model import LoadedModel
    from ..story.tree import State
    from .figures import Scene

UNITS = ("word", "token", "sentence")
_REOPENED = 40  # characters of a token that may stand before the passage it begins
METHOD = "Leaving out: what the word's log-probability loses without each {unit} before it."


class Seen(NamedTuple):
    """A text that the model reads, and where its parts stand.

    Attributes:
        text: The text.
        parts: Name and characters of what is not the story: ``memory``, ``lore``, ``note``.
        runs: Runs of the story in it: first character here, in the story, and their number.
    """

    text: str
    parts: list[tuple[str, int, int]]
    runs: list[tuple[int, int, int]]

    def in_story(self, start: int, end: int) -> tuple[int, int] | None:
        """Where a piece stands in the story; None for a piece of something else."""
        for first, there, count in self.runs:
            if start < first + count and end > first:
                begin, last = max(start, first), min(end, first + count)
                return begin - first + there, last - first + there
        return None

    def here(self, at: int) -> int | None:
        """Where a character of the story stands in this text, if it does."""
        for first, there, count in self.runs:
            if there <= at < there + count:
                return at - there + first
        return None


def reason_at(
    model: LoadedModel, scene: Scene, start: int, end: int, unit: str = "word"
) -> Generator[None, None, tuple[Reason, Seen]]:
    """Why a word, or a few, of the story are there.

    Args:
        model: The model.
        scene: The story.
        start: First character of the word in the text; blanks around it are left out.
        end: Its last character, plus one.
        unit: What is left out at once: ``word``, ``token`` or ``sentence``.

    Raises:
        InputError: There is no word, or no such unit.
    """
    from ..analysis.why import reasons

    if unit not in UNITS:
        raise InputError(f"there is no unit {unit!r}", f"choose one of {', '.join(UNITS)}")
    story = scene.story.text
    word = story[start:end]
    start, end = start + len(word) - len(word.lstrip()), start + len(word.rstrip())
    if start >= end:
        raise InputError("there is no word at this place", "choose a word of the text")
    seen = seen_from(story_view(model, scene.story, seed=scene.settings.seed), scene)
    first, last = seen.here(start), seen.here(end - 1)
    if first is None or last is None:
        seen = seen_at(model, scene, start, end)
        last = len(seen.text) - 1
        first = last - (end - 1 - start)
    found = yield from reasons(model, seen.text, (first, last + 1), unit=unit, judge=True)
    return found, seen


def seen_from(view: StoryView, scene: Scene) -> Seen:
    """A view of the story with the places of its parts."""
    state = scene.story.state
    return _seen(view.view, view.memory, view.note, state, view.start, view.prompt)


def seen_at(model: LoadedModel, scene: Scene, start: int, end: int) -> Seen:
    """What the model reads where it writes a stretch of the story, and that stretch at its end.

    Of a passage that this model wrote, memory, lore and note are those of its record; of all else
    those of now. Where the view is full, the story's first words in view make room.

    Args:
        model: The model.
        scene: The story.
        start: First character of the stretch.
        end: Its last character, plus one.

    Raises:
        InputError: Memory and note leave no room, or the stretch is longer than the view.
    """
    from ..generation.text import encode_with_spans, vocabulary

    place, text = scene.place(start), scene.story.text
    seen = Seen("", [], [])
    for part in passage_parts(model, scene.story, place.passage):
        if place.start + part.spans[-1][1] <= start:
            continue
        first = place.start + part.spans[0][0]
        words = vocabulary(model.tokenizer)
        whole = b"".join(map(words.bytes_of, part.view[1:])).decode(errors="replace")
        prompt = whole.removeprefix(part.memory)
        prompts = [prompt]
        if part.note:
            cuts = [at for at in range(len(prompt)) if prompt.startswith(part.note, at)]
            prompts = [prompt[:at] + prompt[at + len(part.note) :] for at in reversed(cuts)]
        # The first token may begin before the passage: it spells the end of the text again.
        fitting = [
            (one, first - back)
            for back in range(min(first, _REOPENED) + 1)
            for one in prompts
            if text[: first - back].endswith(one)
        ]
        if fitting:
            prompt, first = fitting[0]
        else:  # a tokenizer that does not give every text back
            prompt = text[max(0, first - len(prompt)) : first]
        state = scene.story.state
        seen = _seen(whole, part.memory, part.note, state, first - len(prompt), prompt)
        seen = _longer(seen, text[first:end], first)
        break
    spans = encode_with_spans(model.tokenizer, seen.text)[1]
    most = model.context_length - 2  # the start token, and one that would come next
    if len(spans) <= most:
        return seen
    begin, there, count = seen.runs[0]
    behind = next(i for i, span in enumerate(spans) if span[0] >= begin)
    cut = spans[min(behind + len(spans) - most, len(spans) - 1)][0] - begin
    if not 0 < cut < count or there + cut > start:
        raise InputError("the passage is longer than what the model sees", "mark a shorter one")
    return _without(seen, cut)


def _seen(whole: str, memory: str, note: str, state: State, start: int, prompt: str) -> Seen:
    """A view with the places of its parts.

    Args:
        whole: All of it.
        memory: Memory and lore at its front.
        note: The note in it.
        state: The state of the story.
        start: First character of the story in view.
        prompt: The part of the story in view.
    """
    own = state.memory.strip()
    size = min(len(own) + 2, len(memory)) if own and memory.startswith(own) else 0
    if memory and not size and not any(memory.startswith(one.text.strip()) for one in state.lore):
        size = len(memory)  # of a record: the memory was changed since
    parts = [("memory", 0, size)] * bool(size)
    parts += [("lore", size, len(memory))] * (len(memory) > size)
    if not note:
        if whole == memory + prompt:
            return Seen(whole, parts, [(len(memory), start, len(prompt))])
    else:
        at = whole.find(note, len(memory))
        while at >= 0:
            place = at - len(memory)
            if whole == memory + prompt[:place] + note + prompt[place:]:
                parts.append(("note", at, at + len(note)))
                after = at + len(note)
                runs = [(len(memory), start, place)] * bool(place)
                runs.append((after, start + place, len(prompt) - place))
                return Seen(whole, parts, runs)
            at = whole.find(note, at + 1)
    # A tokenizer that does not give every text back.
    return Seen(memory + prompt, parts, [(len(memory), start, len(prompt))])


def _longer(seen: Seen, text: str, there: int) -> Seen:
    """With the story's text from ``there`` on behind it."""
    runs = list(seen.runs)
    first, begin, count = runs[-1]
    if begin + count == there:
        runs[-1] = first, begin, count + len(text)
    else:
        runs.append((len(seen.text), there, len(text)))
    return Seen(seen.text + text, seen.parts, runs)


def _without(seen: Seen, count: int) -> Seen:
    """Without the first characters of the story in it."""
    first, there, size = seen.runs[0]
    end = first + count

    def moved(at: int) -> int:
        return at - count if at >= end else at

    parts = [(name, moved(begin), moved(last)) for name, begin, last in seen.parts]
    runs = [(first, there + count, size - count)]
    runs += [(moved(begin), place, length) for begin, place, length in seen.runs[1:]]
    return Seen(seen.text[:first] + seen.text[end:], parts, runs)


def as_record(reason: Reason, seen: Seen) -> dict[str, Any]:
    """A reason for the page; places are characters of the story, by ``scores`` and ``in_view``."""
    from ..analysis.why import as_lines

    scores, elsewhere = [], dict.fromkeys((name for name, _, _ in seen.parts), 0.0)
    named: dict[str, list[tuple[str, float]]] = {name: [] for name in elsewhere}
    for piece in reason.pieces:
        place = seen.in_story(*_bare(piece))
        if place is not None:
            scores.append((*place, piece.score))
            continue
        name = _part_of(piece.span, seen.parts)
        if name is not None:
            elsewhere[name] += piece.score
            named[name].append((piece.text.strip(), piece.score))
    trust = reason.trust
    return {
        "probability": reason.probability,
        "rank": reason.rank,
        "others": [{"text": text, "probability": p} for text, p in reason.others],
        "unit": reason.unit,
        "scores": scores,
        "in_view": [
            {"part": name, "score": elsewhere[name], "pieces": pieces}
            for name, pieces in named.items()
        ],
        "method": METHOD.format(unit=reason.unit),
        "trust": None
        if trust is None
        else {
            "value": trust.beaten / trust.draws if trust.draws else None,
            "better": trust.better,
            "sentence": trust.sentence,
        },
        "sentence": as_lines(reason),
    }


def _bare(piece: Piece) -> tuple[int, int]:
    """The characters of a piece without blanks around it."""
    start, end = piece.span
    text = piece.text
    if not text.strip():
        return start, end
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _part_of(span: tuple[int, int], parts: Sequence[tuple[str, int, int]]) -> str | None:
    for name, start, end in parts:
        if span[0] < end and span[1] > start:
            return name
    return None
