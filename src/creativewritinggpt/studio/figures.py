"""Figures of a story's tokens: for the heat map, and all that is known of one token.

What the model wrote has its record where that is kept; all else is read in the view in which the
model would write it (:func:`~..story.context.passage_parts`), in chunks of at most 256 tokens, in
the forward pass of evaluation. Figures are kept by passage and all that is before it: after an edit
only what it changed, and what follows, is read again.

This module imports torch where it computes.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..generation.results import Alternative, Token
from ..generation.sampling.settings import GenerationSettings
from ..story.context import Part, cut_first, passage_parts
from ..story.tree import Passage, Story

if TYPE_CHECKING:
    import torch

    from ..generation.forced import ForcedReader
    from ..generation.text import Vocabulary
    from ..models.loaded_model import LoadedModel

ALTERNATIVES = 12
"""Number of alternatives that are named of a token without a record."""
_CHUNK = 256  # tokens that are read, or sent, at once
_KEPT = 400_000  # tokens whose figures are kept


class Row(NamedTuple):
    """Figures of one token.

    Attributes:
        start: First character of the passage that it stands for.
        end: Its last character, plus one.
        logprob: Log-probability, in nats.
        rank: Number of likelier tokens, plus one.
        entropy: Of the model's distribution, in nats.
        base: Log-probability of the base model, where it was asked for.
    """

    start: int
    end: int
    logprob: float
    rank: int
    entropy: float
    base: float | None = None


class Place(NamedTuple):
    """A passage in the text.

    Attributes:
        passage: The passage.
        start: Where it begins in the text.
        key: A value that differs where the passage or anything before it does.
    """

    passage: Passage
    start: int
    key: int

    @property
    def end(self) -> int:
        """Where it ends in the text."""
        return self.start + len(self.passage.text)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A story as it was at one moment.

    Attributes:
        story: The story; only its current state counts.
        tokens: Records of passages that were written here, by passage.
        settings: The settings that the story would be continued with.
        model: What tells the model, its adapters and their strength from others.
    """

    story: Story
    tokens: Mapping[int, Sequence[Token]]
    settings: GenerationSettings
    model: object = None

    @classmethod
    def of(
        cls,
        story: Story,
        tokens: Mapping[int, Sequence[Token]],
        settings: GenerationSettings,
        model: object = None,
    ) -> Scene:
        """The scene of a story that may change from now on."""
        return cls(Story(story.passages, [story.state]), dict(tokens), settings, model)

    def places(self) -> list[Place]:
        """The passages of the branch and where they begin."""
        found, start, key = [], 0, 0
        for passage in self.story.path():
            setup = passage.setup
            made = None if setup is None else (setup.model, setup.memory, setup.note)
            key = hash((key, passage.id, passage.text, passage.start, made))
            found.append(Place(passage, start, key))
            start += len(passage.text)
        return found

    def place(self, at: int) -> Place:
        """The passage that holds character ``at``; the last one at the end of the text.

        Raises:
            InputError: The text is empty, or shorter.
        """
        places = [place for place in self.places() if place.passage.text]
        if not places:
            raise InputError("the story is empty", "type a beginning, or let the model begin")
        for place in places:
            if place.start <= at < place.end:
                return place
        if at == places[-1].end:
            return places[-1]
        raise InputError(f"the text has no character {at}", "choose a word of it")

    def key(self, place: Place) -> tuple[object, ...]:
        """What the figures of a passage depend on."""
        state = self.story.state
        return (place.key, state.memory, state.note, state.lore, self.model)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tokens of a passage that are read at once.

    Attributes:
        view: Token ids before them.
        ids: Their token ids.
        spans: The characters of the passage that each stands for.
        written: Their record, where there is one.
    """

    view: Sequence[int]
    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    written: Sequence[Token] = ()


@dataclasses.dataclass
class _Kept:
    """Figures of a passage by number of its chunk; ``chunks`` is how many there are, once known."""

    rows: dict[int, list[Row]] = dataclasses.field(default_factory=dict)
    chunks: int | None = None


class Figures:
    """Figures of passages, kept until there are too many; used in one thread.

    Args:
        most: Number of tokens whose figures are kept.
    """

    def __init__(self, most: int = _KEPT) -> None:
        self.most = most
        self._kept: collections.OrderedDict[tuple[object, ...], _Kept] = collections.OrderedDict()
        self._count = 0

    def heat(
        self,
        model: LoadedModel,
        scene: Scene,
        visible: tuple[int, int],
        show: Callable[[Place, list[Row]], None],
        *,
        base: bool = False,
        rest: bool = True,
    ) -> Generator[None, None, int]:
        """Show the figures of a story: of what is visible first, then of what follows, then before.

        Args:
            model: The model.
            scene: The story.
            visible: Characters of the text.
            show: Called with a passage and the figures of some of its tokens.
            base: Whether the base model's figures are wanted, too.
            rest: Whether to go on with what is not visible.

        Returns:
            Number of tokens shown.
        """
        from ..generation.forced import ForcedReader

        readers = [ForcedReader(model)] + [ForcedReader(model, base=True)] * base
        places = scene.places()
        seen = [p for p in places if p.start < visible[1] and p.end > visible[0]]
        later = [p for p in places if p.start >= visible[1]]
        earlier = [p for p in places if p.end <= visible[0]]
        count = 0
        steps = [(place, True) for place in seen]
        if rest:
            steps += [(place, False) for place in [*seen, *later, *earlier[::-1]]]
        for place, near in steps:
            span = visible[0] - place.start, visible[1] - place.start
            kept = self._of(scene, place, base)
            if kept.chunks is not None:
                for number in range(kept.chunks):
                    rows = kept.rows[number]
                    if _meet(rows[0].start, rows[-1].end, span) is near:
                        show(place, rows)
                        count += len(rows)
                yield
                continue
            number = -1
            for number, chunk in self._chunks(model, scene, place.passage, base):  # noqa: B007
                if _meet(chunk.spans[0][0], chunk.spans[-1][1], span) is not near:
                    continue
                if number not in kept.rows:
                    kept.rows[number] = yield from _read_rows(chunk, readers)
                    self._count += len(kept.rows[number])
                show(place, kept.rows[number])
                count += len(kept.rows[number])
            if len(kept.rows) == number + 1:
                kept.chunks = number + 1
            self._forget()
        return count

    def _of(self, scene: Scene, place: Place, base: bool) -> _Kept:
        key = (*scene.key(place), base)
        kept = self._kept.setdefault(key, _Kept())
        self._kept.move_to_end(key)
        return kept

    def _forget(self) -> None:
        """Forget what was not asked for the longest."""
        while self._count > self.most and len(self._kept) > 1:
            _, kept = self._kept.popitem(last=False)
            self._count -= sum(map(len, kept.rows.values()))

    def _chunks(
        self, model: LoadedModel, scene: Scene, passage: Passage, base: bool
    ) -> Iterator[tuple[int, Chunk]]:
        """The chunks of a passage with their numbers."""
        from ..generation.text import spans_of

        written = scene.tokens.get(passage.id, ())
        if written and not base:
            spans = spans_of([token.bytes for token in written], 0, len(passage.text))
            parts: Iterator[Chunk] = iter([Chunk((), (), spans, written)])
        else:
            parts = _with_record(passage_parts(model, scene.story, passage, written), written)
        number = 0
        for part in parts:
            for start in range(0, len(part.spans), _CHUNK):
                some = slice(start, start + _CHUNK)
                view = [*part.view, *part.ids[:start]] if part.ids else ()
                yield number, Chunk(view, part.ids[some], part.spans[some], part.written[some])
                number += 1


def _meet(start: int, end: int, span: tuple[int, int]) -> bool:
    """Whether two runs of characters have one in common."""
    return start < span[1] and end > span[0]


def _read_rows(chunk: Chunk, readers: Sequence[ForcedReader]) -> Generator[None, None, list[Row]]:
    """The figures of a chunk: its record, or read now; those of the base model beside them."""
    tokens = chunk.written
    if not tokens:
        tokens = yield from readers[0].tokens(chunk.view, chunk.ids)
    base: list[float | None] = [None] * len(tokens)
    if len(readers) > 1:
        found = yield from readers[1].tokens(chunk.view, chunk.ids)
        base = [token.logprob for token in found]
    return [
        Row(*span, token.logprob, token.rank, token.entropy, other)
        for span, token, other in zip(chunk.spans, tokens, base, strict=True)
    ]


def _with_record(parts: Iterator[Part], written: Sequence[Token]) -> Iterator[Chunk]:
    done = 0
    for part in parts:
        yield Chunk(part.view, part.ids, part.spans, written[done : done + len(part.ids)])
        done += len(part.ids)


def token_at(
    model: LoadedModel, scene: Scene, at: int
) -> Generator[None, None, tuple[dict[str, Any], tuple[int, int]]]:
    """All that is known of the token at a character of the text.

    Args:
        model: The model.
        scene: The story.
        at: The character; at the end of the text the last one.

    Returns:
        What the page shows, and the token's characters in the text.

    Raises:
        InputError: There is no token.
    """
    place = scene.place(at)
    passage, inside = place.passage, min(at - place.start, len(place.passage.text) - 1)
    settings, own = _settings_of(scene, passage)
    written = scene.tokens.get(passage.id, ())
    if written and written[0].before is not None:
        from ..generation.text import spans_of

        spans = spans_of([token.bytes for token in written], 0, len(passage.text))
        index = _index(spans, inside)
        token, span, reopened = written[index], spans[index], ""
    else:
        token, span, reopened = yield from _read_token(model, scene, passage, inside, settings)
    start, end = span
    found = {
        "text": token.text,
        "probability": math.exp(token.logprob),
        "logprob": token.logprob,
        "rank": token.rank,
        "entropy": token.entropy,
        "drawn": token.probability,
        "before": _listed(token.before or [], reopened),
        "after": _listed(token.after or [], reopened),
        "removed": [
            {
                "sampler": name,
                "count": removal.tokens,
                "mass": removal.probability,
                "tokens": _listed(removal.likeliest, reopened),
            }
            for name, removal in (token.removed or {}).items()
        ],
        "by": passage.by,
        "recorded": bool(written),
        "settings": "as it was written" if own else "as the settings are now",
        "xtc": settings.xtc_probability if settings.xtc_probability else None,
    }
    return found, (place.start + start, place.start + end)


def _read_token(
    model: LoadedModel, scene: Scene, passage: Passage, inside: int, settings: GenerationSettings
) -> Generator[None, None, tuple[Token, tuple[int, int], str]]:
    """A token without a record, its characters, and what of it stands before the passage."""
    import torch

    from ..generation.forced import ForcedReader
    from ..generation.results import step_tokens
    from ..generation.sampling.samplers import Chain, Trace
    from ..generation.text import vocabulary

    words, before = vocabulary(model.tokenizer), 0
    written = scene.tokens.get(passage.id, ())
    for part in passage_parts(model, scene.story, passage, written):
        if part.spans[-1][1] > inside:
            break
        before += len(part.ids)
    else:
        raise InputError("there is no token at this place", "choose a word of the text")
    index = _index(part.spans, inside)
    # All tokens of a character have its span; the last one completes it.
    logits = yield from ForcedReader(model).logits([*part.view, *part.ids[:index]])
    ends = {model.eos_id, *words.special}
    barred = ends if before + index < settings.min_new_tokens else set()
    history = [*part.history, *part.ids[:index]]
    own = passage.text[: part.spans[index][1]] if before + index == 0 else None
    reopened = _reopened(part.ids[index], own, words)
    # Where the end of the prompt was re-opened, the first token has to spell it again.
    allowed = words.begun(reopened[0]) if written and reopened[0] else None
    row = _Row(history, allowed, barred, _uniform(passage, before + index))
    trace: Trace = []
    chain = Chain(settings, words, ends)
    final = chain.apply(logits, [row], trace)
    wanted = torch.tensor([part.ids[index]])
    drawn = torch.softmax(final, -1)[:, part.ids[index]]
    [token] = step_tokens(
        logits, wanted, drawn, words, alternatives=ALTERNATIVES, final=final, trace=trace
    )
    if own is not None:
        [token] = cut_first([token], part, passage)
    return token, part.spans[index], reopened[1]


def _reopened(token: int, own: str | None, words: Vocabulary) -> tuple[str, str]:
    """What of a first token stands before its passage, as the vocabulary spells it and as text.

    Args:
        token: The token.
        own: What of its text is the passage's; None for other tokens than the first.
        words: The vocabulary.
    """
    whole = words.bytes_of(token)
    count = 0 if own is None else len(whole) - len(own.encode("utf-8", "replace"))
    if count <= 0 or not words.byte_level:
        return "", ""
    name = str(words.tokenizer.convert_ids_to_tokens(token))
    return name[:count], whole[:count].decode("utf-8", "ignore")


@dataclasses.dataclass(frozen=True)
class _Row:
    """What the samplers read of a text."""

    history: Sequence[int]
    allowed: set[int] | None
    barred: set[int]
    uniform: torch.Tensor


def _uniform(passage: Passage, index: int) -> torch.Tensor:
    """The random numbers with which token ``index`` of a passage was drawn.

    Without a seed zeros, with which a sampler that acts by chance does act.
    """
    import torch

    if passage.seed is None:
        return torch.zeros(2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(passage.seed)
    for _ in range(index + 1):
        numbers = torch.rand(2, generator=generator, dtype=torch.float64)
    return numbers


def _index(spans: Sequence[tuple[int, int]], inside: int) -> int:
    """The last of the tokens that stand for a character."""
    holding = [index for index, (start, end) in enumerate(spans) if start <= inside < end]
    if not holding:
        raise InputError("there is no token at this place", "choose a word of the text")
    return holding[-1]


def _settings_of(scene: Scene, passage: Passage) -> tuple[GenerationSettings, bool]:
    """The settings that a passage was written with, else those of now; whether they are its own."""
    if passage.setup is None or not passage.setup.settings:
        return scene.settings, False
    known = {field.name for field in dataclasses.fields(GenerationSettings)}
    values = {name: value for name, value in passage.setup.settings.items() if name in known}
    try:
        return GenerationSettings().changed(values), True
    except InputError:  # of another version
        return scene.settings, False


def _listed(alternatives: Sequence[Alternative], reopened: str = "") -> list[dict[str, Any]]:
    """Alternatives for the page; ``takes`` is the text that taking one puts in the place."""
    found = []
    for one in alternatives:
        takes = one.text.removeprefix(reopened) or None
        if "\ufffd" in one.text or one.text.startswith("<|"):
            takes = None
        entry = {"id": one.id, "text": one.text, "probability": one.probability, "takes": takes}
        found.append(entry)
    return found
