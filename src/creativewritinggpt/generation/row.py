"""One row of a batch: its tokens, the model's view of them, the text to show, when it ends.

    [start of text] [memory] … paragraphs … [note] … last paragraphs … → next token

When the view is full, at least a quarter of the context length is given up at once, up to the next
paragraph: it moves seldom and far, since every move means a prefill of the whole view. Memory and
author's note are pinned: they stay in view.

Text that could be the beginning of a stop string or a banned phrase is held back. A complete banned
phrase is undone: the row goes back to the token where the phrase began, bars that token there, and
draws another.

Where the end of a prompt is re-opened (token healing), the next tokens must spell that end again
before they go on; only what goes on is new text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ..errors import InputError
from .results import Token
from .sampling.settings import GenerationSettings
from .text import TextOfTokens, Vocabulary

NOTE_DEPTH = 3
"""Number of paragraphs between the author's note and the end of the text."""


@dataclasses.dataclass(frozen=True)
class Pinned:
    """Token ids that stay in view however long the text gets."""

    memory: Sequence[int] = ()
    note: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class View:
    """The token ids that the model reads.

    Attributes:
        ids: Start of text, memory, the visible text with the note in it.
        start: Index of the first visible token of the text.
    """

    ids: list[int]
    start: int


def make_view(
    body: Sequence[int],
    words: Vocabulary,
    *,
    context_length: int,
    bos_id: int,
    pinned: Pinned | None = None,
    start: int = 0,
) -> View:
    """The view of a text, with room for at least one more token.

    Args:
        body: Token ids of prompt and text.
        words: The vocabulary.
        context_length: Number of tokens that the model can read.
        bos_id: Id of the token that begins every text.
        pinned: Memory and note.
        start: Where the view began so far; it moves only when it must.

    Raises:
        InputError: The pinned text takes more than half of the context length.
    """
    pinned = pinned or Pinned()
    fixed = 1 + len(pinned.memory) + len(pinned.note)
    if fixed > context_length // 2:
        raise InputError(
            f"memory and note take {fixed} of the model's {context_length} tokens",
            "shorten them to less than half of the window",
        )
    if len(body) - start >= context_length - fixed:
        least = len(body) - (context_length - context_length // 4 - fixed)
        start = _next_start(body, words, least)
    visible = list(body[start:])
    if pinned.note:
        place = _note_place(visible, words)
        visible = visible[:place] + list(pinned.note) + visible[place:]
    return View([bos_id, *pinned.memory, *visible], start)


def _next_start(body: Sequence[int], words: Vocabulary, least: int) -> int:
    """The first paragraph, else line, sentence or word that begins at or after ``least``.

    Only the first third of what is left is searched, so that most of the view is kept.
    """
    last = least + (len(body) - least) // 3
    for ending in (b"\n\n", b"\n", b".", b" "):
        for place in range(least, last):
            before = b"".join(words.bytes_of(token) for token in body[max(0, place - 2) : place])
            if ending == b".":
                before = before.rstrip(b"\"'\x9d\x80\xe2)")
            if before.endswith(ending) and not words.bytes_of(body[place]).startswith(b"\n"):
                return place
    return least


def _note_place(visible: Sequence[int], words: Vocabulary) -> int:
    """Index of the note: before the last paragraphs, or 0 in a shorter text."""
    found = 0
    for place in range(len(visible) - 1, 0, -1):
        begins = not words.bytes_of(visible[place]).startswith(b"\n")
        if begins and words.bytes_of(visible[place - 1]).endswith(b"\n"):
            found += 1
            if found == NOTE_DEPTH:
                return place
    return 0


def characters(body: Sequence[int], words: Vocabulary) -> int:
    """Number of characters of the text of ``body``."""
    if not words.byte_level:  # some tokenizers put a space before a text
        return len(words.tokenizer.decode(list(body), skip_special_tokens=True).rstrip("\ufffd"))
    return len(b"".join(words.bytes_of(token) for token in body).decode(errors="ignore"))


# Number of tokens barred at one place after which the text ends there.
_MOST_REWINDS = 200


class Row:
    """One alternative while it is being written.

    Args:
        index: Its number, as in :class:`~.results.Piece`.
        prompt: Token ids of the prompt.
        seed: Seed of its random numbers.
        settings: The generation settings.
        words: The vocabulary.
        ends: Token ids that end the text.
        pinned: Memory and note.
    """

    def __init__(
        self,
        index: int,
        prompt: Sequence[int],
        seed: int,
        settings: GenerationSettings,
        words: Vocabulary,
        ends: set[int],
        pinned: Pinned | None,
    ) -> None:
        import torch

        self.index = index
        self.seed = seed
        self.settings = settings
        self.words = words
        self.ends = ends
        self.pinned = pinned
        self.prompt_length = len(prompt)
        self.history = list(prompt)
        self.tokens: list[Token] = []
        self.finish_reason: str | None = None
        self.reported = False  # whether its last piece has been handed out
        # The last view: index of its first token in the history, the same in characters, its
        # length in tokens, its last token, and the length of the history when it was made.
        self.view_start = 0
        self.view_start_characters = 0
        self.view_length = 0
        self.view_last = 0
        self.made_at = 0
        self.uniform = torch.zeros(2, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._text = TextOfTokens(words, prompt)
        self._written = ""
        self._ends_at: list[int] = []  # for each token, characters of text up to its end
        self._sent = 0
        self._sent_tokens = 0
        self._barred: dict[int, set[int]] = {}
        # Token healing: what the next tokens must begin with, as the vocabulary spells it, and the
        # number of characters of it; both again as they were before the first new token.
        self._must, self._skip = "", 0
        self._before_first = ("", 0)
        self._opened: tuple[int, list[int]] = (0, [])  # where it was re-opened, the tokens there
        self.reopened = 0  # characters of the prompt that were re-opened
        self._banned = [re.compile(re.escape(b), re.IGNORECASE) for b in settings.banned or ()]

    @property
    def text(self) -> str:
        """The text so far, without incomplete characters."""
        return self._written

    @property
    def allowed(self) -> set[int] | None:
        """The only token ids that may come next, where the prompt's end is re-opened."""
        return self.words.begun(self._must) if self._must else None

    def reopen(self, count: int, tail: str) -> None:
        """Take back the last tokens of the prompt, which the next ones must spell again.

        Args:
            count: Number of tokens.
            tail: What they spell, as the vocabulary's entries do.
        """
        last = self.history[-count:]
        del self.history[-count:]
        self._opened = len(self.history), last
        text = TextOfTokens(self.words, self.history)
        self._must, self._skip = tail, sum(len(text.add(token)) for token in last)
        self.reopened = self._skip
        self.prompt_length = len(self.history)
        self._text = TextOfTokens(self.words, self.history)

    @property
    def barred(self) -> set[int]:
        """Token ids that must not come next."""
        place = len(self.tokens)
        barred = self._barred.get(place, set())
        return barred | self.ends if place < self.settings.min_new_tokens else barred

    @property
    def read_length(self) -> int:
        """Number of tokens in the model's context once it has read the last one."""
        return self.view_length + len(self.history) - self.made_at

    @property
    def last(self) -> int:
        """Id of the token that the model reads next."""
        return self.history[-1] if len(self.history) > self.made_at else self.view_last

    def look(self, view: View) -> None:
        """Record a new view."""
        self.view_start = view.start
        self.view_start_characters = characters(self.history[: view.start], self.words)
        self.view_length, self.view_last = len(view.ids), view.ids[-1]
        self.made_at = len(self.history)

    def roll(self) -> None:
        """Draw the random numbers of the next token."""
        import torch

        self.uniform = torch.rand(2, generator=self._generator, dtype=torch.float64)

    def add(self, token: Token) -> int:
        """Add the next token.

        Returns:
            Number of tokens that were undone for a banned phrase; 0 almost always.
        """
        if token.id in self.ends:
            self._finish("stop")
            return 0
        self.history.append(token.id)
        if self._must:
            rest = self._spell(token)
            if rest is None:
                return 0
            token = rest
        before = len(self._written)
        self.tokens.append(token)
        self._written += self._new_text(token.id)
        self._ends_at.append(len(self._written))
        if self._banned and (undone := self._rewind(before)):
            return undone
        if self._stops(before):
            return 0
        if len(self.tokens) >= self.settings.max_new_tokens:
            self._finish("length")
        return 0

    def _close(self) -> None:
        """Give the prompt its own tokens back, since no other way is left to go on within them."""
        place, last = self._opened
        self.history[place:] = last
        self.prompt_length = len(self.history)
        self._must, self._skip, self._before_first, self.reopened = "", 0, ("", 0), 0
        self._text = TextOfTokens(self.words, self.history)
        self._barred.pop(0, None)
        self.made_at = len(self.history) + 1  # the view is made anew

    def _spell(self, token: Token) -> Token | None:
        """Spell the re-opened end of the prompt by a token; the part of it that goes on, if any."""
        name = str(self.words.tokenizer.convert_ids_to_tokens(token.id))
        if len(name) <= len(self._must):
            self._must = self._must[len(name) :]
            self.prompt_length += 1
            self._new_text(token.id)
            return None
        self._before_first = self._must, self._skip
        rest = token.bytes[len(self._must) :]
        if not self.words.byte_level:
            text = TextOfTokens(self.words, self.history[: self.prompt_length])
            rest = text.add(token.id)[self._skip :].encode()
        self._must = ""
        return dataclasses.replace(token, bytes=rest, text=rest.decode("utf-8", "replace"))

    def _new_text(self, token: int) -> str:
        """The text that a token completes, without what the prompt has of it."""
        text = self._text.add(token)
        taken = min(self._skip, len(text))
        self._skip -= taken
        return text[taken:]

    def interrupt(self) -> None:
        """End here, since the user stopped the writing."""
        self._finish("interrupted")

    def settled(self) -> tuple[str, list[Token]]:
        """New text that will not be undone, and the tokens that it completes."""
        end = len(self._written) if self.finish_reason else self._sure()
        text, self._sent = self._written[self._sent : end], end
        first = self._sent_tokens
        if self.finish_reason:
            self._sent_tokens = len(self.tokens)
        else:
            while (
                self._sent_tokens < len(self.tokens)
                and self._ends_at[self._sent_tokens] <= self._sent
            ):
                self._sent_tokens += 1
        return text, self.tokens[first : self._sent_tokens]

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        if self.tokens:  # else what is held back is the prompt's
            self._written += self._text.end()

    def _cut(self, end: int) -> None:
        """Keep the text up to character ``end`` and the tokens that begin before it."""
        self._written = self._written[:end]
        begins = [0, *self._ends_at[:-1]]
        kept = sum(1 for begin in begins if begin < end)
        del self.tokens[kept:], self._ends_at[kept:]

    def _stops(self, before: int) -> bool:
        strings = self.settings.stop or ()
        places = []
        for string in strings:
            place = self._written.find(string, max(0, before - len(string) + 1))
            if place >= 0:
                places.append(place)
        if not places:
            return False
        self._text = TextOfTokens(self.words)
        self._cut(min(places))
        self._finish("stop")
        return True

    def _rewind(self, before: int) -> int:
        """Undo the tokens of a banned phrase; their number."""
        found = []
        for pattern in self._banned:
            match = pattern.search(self._written, max(0, before - len(pattern.pattern)))
            if match:
                found.append(match.start())
        if not found:
            return 0
        start = min(found)
        place = next(i for i, end in enumerate(self._ends_at) if end > start)
        count = len(self.tokens) - place
        barred = self._barred.setdefault(place, set())
        barred.add(self.tokens[place].id)
        for later in [other for other in self._barred if other > place]:
            del self._barred[later]
        del self.tokens[place:], self._ends_at[place:], self.history[len(self.history) - count :]
        self._text = TextOfTokens(self.words, self.history[: self.prompt_length])
        must, self._skip = self._before_first
        if not self.tokens:
            self._must = must
        self._written = "".join(self._new_text(token.id) for token in self.tokens)
        if self._must and self.words.begun(self._must) <= barred:
            self._close()
        if len(barred) > _MOST_REWINDS:
            self._finish("stop")
        return count

    def _sure(self) -> int:
        """Number of characters that can belong to no stop string and no banned phrase."""
        size = len(self._written)
        end = size - max((_overlap(self._written, s) for s in self.settings.stop or ()), default=0)
        banned = max((_overlap(self._written, b) for b in self.settings.banned or ()), default=0)
        if banned:
            # A rewind undoes whole tokens, so the token in which the phrase begins waits, too.
            begins = [0, *self._ends_at]
            end = min(end, max(begin for begin in begins if begin <= size - banned))
        return max(end, self._sent)


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``string``, in any case."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text[-length:].lower() == string[:length].lower():
            return length
    return 0
