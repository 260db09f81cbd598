"""The model's view of a story: memory, lore, note and the last part of the text.

    [memory] [triggered lore] … the last part of the text … [note] … last paragraphs →

The text is cut here and not in the engine, so that the start of the view is kept from passage to
passage and the backend's prefix cache stays valid until the view is full.

Trade-off: memory and lore are at the front, so a new entry of lore costs a prefill of the view.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import regex

from ..data.text import is_unspaced
from ..generation.results import Token
from ..generation.row import Pinned, characters, make_view
from ..generation.sampling.settings import GenerationSettings
from ..generation.text import Vocabulary, encode, encode_with_spans, spans_of, vocabulary
from .tree import Lore, Passage, Setup, Story

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel

LORE_REACH = 2000
"""Number of last characters of the text in which key words trigger lore."""
_SECONDS = 0.05  # that a pattern of a key may take
MAX_PASSAGE_TOKENS = 2000
"""Number of tokens, from its start, of a passage whose statistics are computed."""
# Upper bound of the mean characters per token, so that a cut this far back is never too short.
_MOST_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class StoryView:
    """The model's view of a story, and what it is made of.

    Attributes:
        prompt: The part of the text that is in view.
        memory: The text before it: memory and lore.
        note: The text near its end.
        view: All of it as the model reads it, the note in its place.
        start: First character of the story that is in view.
        context_length: Number of tokens that the model can read.
        tokens: Number of tokens of ``memory``, ``lore``, ``note`` and ``text`` in view.
        lore: Entries in view.
        left_out: Entries that were triggered and had no room.
    """

    prompt: str
    memory: str
    note: str
    view: str
    start: int
    context_length: int
    tokens: dict[str, int]
    lore: tuple[Lore, ...] = ()
    left_out: tuple[Lore, ...] = ()

    @property
    def used(self) -> int:
        """Number of tokens in view, with the one that begins every text."""
        return 1 + sum(self.tokens.values())

    @property
    def fill(self) -> float:
        """Share of the context length that is used, 0…1."""
        return self.used / self.context_length


def story_view(
    model: LoadedModel, story: Story, head: int | None = None, seed: int | None = None
) -> StoryView:
    """The view of ``story`` from which ``model`` continues passage ``head``.

    Args:
        model: The model, for its tokenizer and context length.
        story: The story.
        head: The passage to be continued; the last one by default.
        seed: Random seed of entries of lore with a probability.

    Raises:
        InputError: Memory and note take more than half of the context length.
    """
    path = story.path(head)
    text = "".join(passage.text for passage in path)
    state = story.state
    note = _block(state.note, "\n")
    place = f"{seed}/{path[-1].id if path else 0}"
    triggered = [lore for lore in state.lore if _triggered(lore, text[-LORE_REACH:], place)]
    room = model.context_length // 2 - 1 - _count(model, note) - _count(model, _block(state.memory))
    lore, left_out, entries = _fitting(model, triggered, room)
    memory = _block(state.memory) + entries
    start = max(_kept_start(path, model), len(text) - _MOST_CHARACTERS * model.context_length)
    body = encode(model.tokenizer, text[start:])
    words = vocabulary(model.tokenizer)
    pinned = Pinned(encode(model.tokenizer, memory), encode(model.tokenizer, note))
    view = make_view(
        body, words, context_length=model.context_length, bos_id=model.bos_id, pinned=pinned
    )
    start += characters(body[: view.start], words)
    lore_tokens = _count(model, entries)
    tokens = {
        "memory": len(pinned.memory) - lore_tokens,
        "lore": lore_tokens,
        "note": len(pinned.note),
        "text": len(body) - view.start,
    }
    read = b"".join(words.bytes_of(token) for token in view.ids[1:]).decode(errors="replace")
    return StoryView(
        text[start:], memory, note, read, start, model.context_length, tokens, lore, left_out
    )


def complete(text: str) -> str:
    """``text`` without an incomplete character at its end."""
    return text.rstrip("\ufffd")


def setup_of(
    model: str,
    adapters: Mapping[str, float],
    preset: str | None,
    settings: GenerationSettings,
    weights: str,
    view: StoryView,
) -> Setup:
    """How a passage is made.

    Args:
        model: Name of the model.
        adapters: Weights of the adapters that are on, by folder.
        preset: The preset, if one was chosen.
        settings: The generation settings.
        weights: The weight format itself, since "auto" depends on the machine and the packages.
        view: What the model sees.
    """
    values = settings.to_dict()
    values.pop("seed")
    values["weights"] = weights
    return Setup(model, dict(adapters), preset, values, view.memory, view.note)


@dataclasses.dataclass(frozen=True)
class Part:
    """Tokens of a passage that are written in one view.

    Attributes:
        view: Token ids that the model reads before them.
        ids: Their token ids.
        spans: The characters of the passage that each stands for.
        history: Token ids of the text before them, also of what is not in view.
        memory: Text at the front of the view.
        note: Text near its end.
    """

    view: list[int]
    ids: list[int]
    spans: list[tuple[int, int]]
    history: list[int]
    memory: str
    note: str


def passage_parts(
    model: LoadedModel, story: Story, passage: Passage, written: Sequence[Token] | None = None
) -> Iterator[Part]:
    """The views in which the model writes a passage, each with the tokens that it writes there.

    Memory, note and the start of the view are those that are recorded where this model wrote the
    passage, else those from which it would continue the story there. The view slides as in writing,
    so that each part is as long as the context length allows. The first token may begin within the
    text before the passage, as where the end of a prompt is re-opened.

    Args:
        model: The model.
        story: The story that the passage belongs to.
        passage: The passage.
        written: The tokens as they were written; those of its text by default.

    Raises:
        InputError: Memory and note leave no room.
    """
    tokenizer, words = model.tokenizer, vocabulary(model.tokenizer)
    if _is_recorded(model, story, passage) and passage.setup is not None:
        prompt = story.text_at(passage.parent)[passage.start :]
        memory, note = passage.setup.memory, passage.setup.note
    else:
        seen = story_view(model, story, passage.parent)
        prompt, memory, note = seen.prompt, seen.memory, seen.note
    if written:
        spans = spans_of([token.bytes for token in written], 0, len(passage.text))
        prompt = prompt.removesuffix(_reopened(written[0], words))
        body = encode(tokenizer, prompt)
        done = len(body)
        body += [token.id for token in written]
    else:
        body, places = encode_with_spans(tokenizer, prompt + passage.text)
        before = len(prompt)
        done = next((i for i, (_, end) in enumerate(places) if end > before), len(body))
        spans = [(max(0, first - before), last - before) for first, last in places[done:]]
    pinned = Pinned(encode(tokenizer, memory), encode(tokenizer, note))
    first, start = done, 0
    while done < len(body):
        view = make_view(
            body[:done],
            words,
            context_length=model.context_length,
            bos_id=model.bos_id,
            pinned=pinned,
            start=start,
        )
        # The last token of a view that is full is predicted and not read.
        end = min(done + model.context_length - len(view.ids) + 1, len(body))
        yield Part(
            view.ids, body[done:end], spans[done - first : end - first], body[:done], memory, note
        )
        done, start = end, view.start


def passage_tokens(
    model: LoadedModel, story: Story, passage: Passage, alternatives: int
) -> list[Token]:
    """The statistics of each token of ``passage``, as if the model had written it.

    Args:
        model: The model.
        story: The story that the passage belongs to.
        passage: The passage; about :data:`MAX_PASSAGE_TOKENS` of it are read.
        alternatives: Number of alternatives to name per token.

    Raises:
        InputError: Memory and note leave no room.
    """
    from ..generation.forced import ForcedReader

    reader, found = ForcedReader(model), list[Token]()
    for part in passage_parts(model, story, passage):
        left = MAX_PASSAGE_TOKENS - len(found)
        if left <= 0:
            break
        steps = reader.tokens(part.view, part.ids[:left], alternatives=alternatives)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found += cut_first(end.value, part, passage)
                break
    return found


def cut_first(tokens: list[Token], part: Part, passage: Passage) -> list[Token]:
    """The tokens of a part, a first one that begins before the passage without what is there."""
    if not tokens or part.spans[0][0] > 0:
        return tokens
    own = passage.text[: part.spans[0][1]].encode("utf-8", "replace")
    first = tokens[0]
    if len(own) >= len(first.bytes):
        return tokens
    text = own.decode("utf-8", "replace")
    return [dataclasses.replace(first, bytes=own, text=text), *tokens[1:]]


def _reopened(token: Token, words: Vocabulary) -> str:
    """The end of the prompt that the first token of a passage spells again."""
    whole = words.bytes_of(token.id)
    if not whole.endswith(token.bytes):
        return ""
    return whole[: len(whole) - len(token.bytes)].decode("utf-8", "ignore")


def _is_recorded(model: LoadedModel, story: Story, passage: Passage) -> bool:
    """Whether ``model`` wrote the passage after the very text that stands before it."""
    if passage.setup is None or passage.setup.model != model.name:
        return False
    source = passage if passage.copy_of is None else story.passages[passage.copy_of]
    return source.parent == passage.parent


def _kept_start(path: Sequence[Passage], model: LoadedModel) -> int:
    """Start of this model's last view on this path; 0 if unknown."""
    for passage in reversed(path):
        if passage.setup is not None and passage.copy_of is None:
            return passage.start if passage.setup.model == model.name else 0
    return 0


def _count(model: Any, text: str) -> int:
    return len(encode(model.tokenizer, text)) if text else 0


def _block(text: str, end: str = "\n\n") -> str:
    """``text`` stripped, with ``end`` after it unless it is empty."""
    return text.strip() + end if text.strip() else ""


def _triggered(lore: Lore, text: str, place: str) -> bool:
    """Whether an entry is in view after ``text``.

    Args:
        lore: The entry.
        text: The last part of the story.
        place: Where in the story that is, with the seed: the same place gives the same draw.
    """

    def any_of(keys: tuple[str, ...]) -> bool:
        return any(_occurs(key, text) for key in keys)

    second = not lore.secondary or any_of(lore.secondary)
    if not (lore.always or (any_of(lore.keys) and second and not any_of(lore.excluding))):
        return False
    if lore.probability == 100:
        return True
    return random.Random(f"{place}/{lore.keys}/{lore.text}").random() * 100 < lore.probability


def _occurs(key: str, text: str) -> bool:
    """Whether a key occurs: a word in any case, a pattern between slashes, or all around ``&``."""
    pattern = _key_pattern(key)
    if pattern is None:
        return " & " in key and all(_occurs(part.strip(), text) for part in key.split(" & "))
    try:
        return pattern.search(text, timeout=_SECONDS) is not None
    except TimeoutError:
        return False


@functools.lru_cache(maxsize=4096)
def _key_pattern(key: str) -> regex.Pattern[str] | None:
    """The pattern of one key; None for several keys, or one that can't be read."""
    found = re.fullmatch(r"/(.+)/([a-z]*)", key, re.DOTALL)
    if found is None:
        if " & " in key or not key:
            return None
        # No boundary stands between the letters of scripts that are written without spaces.
        begin = "" if is_unspaced(key[0]) else r"(?<!\w)"
        end = "" if is_unspaced(key[-1]) else r"(?!\w)"
        return regex.compile(begin + regex.escape(key) + end, regex.IGNORECASE)
    flags = sum({"i": regex.I, "m": regex.M, "s": regex.S}.get(one, 0) for one in set(found[2]))
    try:
        return regex.compile(found[1], flags)
    except (regex.error, RecursionError, OverflowError):
        return None


def _fitting(
    model: Any, triggered: Sequence[Lore], room: int
) -> tuple[tuple[Lore, ...], tuple[Lore, ...], str]:
    """The entries that fit into ``room`` tokens, the other ones, and the text of the first."""
    kept, left_out, text = [], [], ""
    for lore in triggered:
        longer = text + _block(lore.text)
        if _count(model, longer) <= room:
            kept.append(lore)
            text = longer
        else:
            left_out.append(lore)
    return tuple(kept), tuple(left_out), text
