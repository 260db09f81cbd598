"""Text to token ids, and token ids to text one at a time (streaming detokenisation).

A byte-level token may hold part of a character only, so bytes are held back until the character is
whole: the streamed text equals what the tokenizer decodes from all tokens at once. Tokenizers that
are not byte-level decode the last few tokens again at each step.
"""

from __future__ import annotations

import codecs
import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
_SPACE = "\u2581"  # SentencePiece's mark for a space
_BYTE = re.compile("<0x([0-9A-F]{2})>")
# Surrogates, as in an argument that is not UTF-8; tokenizers refuse them.
_LONE = re.compile("[\ud800-\udfff]")
# Byte-level BPE and SentencePiece write a space, a line end or a tab so.
_NEXT_WORD = re.compile("[^ĠĊĉč▁][ĠĊĉč▁]")
_MOST_REOPENED = 8  # tokens


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text``, without special tokens; ``<|endoftext|>`` in it is plain text."""
    ids: list[int] = tokenizer(
        whole_characters(text), add_special_tokens=False, split_special_tokens=True
    )["input_ids"]
    return ids


def encode_with_spans(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of ``text`` as of :func:`encode`, and the characters that each stands for."""
    ids, words = encode(tokenizer, text), vocabulary(tokenizer)
    if words.byte_level:
        return ids, spans_of([words.bytes_of(token) for token in ids], 0, len(text))
    offsets = tokenizer(
        whole_characters(text),
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    return ids, [(int(first), int(last)) for first, last in offsets]


def spans_of(pieces: Sequence[bytes], start: int, end: int) -> list[tuple[int, int]]:
    """The characters of a text that the bytes of each of its tokens stand for.

    Tokens that are parts of one character all have that character's span.

    Args:
        pieces: The bytes of the tokens.
        start: First character of the tokens' text.
        end: Its last character, plus one.
    """
    spans: list[tuple[int, int]] = []
    content = b""
    whole = start
    open_from = 0
    for index, piece in enumerate(pieces):
        content += piece
        try:
            count = len(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            if error.end < len(content) or index - open_from > 4:
                count = len(content.decode("utf-8", "replace"))
            else:
                spans.append((whole, whole))
                continue
        last = min(whole + count, end)
        spans[open_from:] = [(whole, last)] * (index + 1 - open_from)
        whole, content, open_from = last, b"", index + 1
    spans[open_from:] = [(whole, end)] * (len(pieces) - open_from)
    return spans


def whole_characters(text: str) -> str:
    """``text`` with the replacement character for each surrogate; its length stays."""
    return _LONE.sub(_REPLACEMENT, text)


def encode_marked(tokenizer: Any, text: str) -> list[int]:
    """Token ids of ``text`` in which the names of special tokens are those tokens."""
    words = vocabulary(tokenizer)
    names = {words.shown(token): token for token in words.special}
    ids: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]:
        if part in names:
            ids.append(names[part])
        elif part:
            ids += encode(tokenizer, part)
    return ids


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """Byte of each character of byte-level BPE (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(256) if byte not in set(shown))
    table.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return table


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the special tokens, chat marks included."""
    marks = {token for token, mark in tokenizer.added_tokens_decoder.items() if mark.special}
    return marks | set(tokenizer.all_special_ids)


class Vocabulary:
    """The bytes of each token of a tokenizer.

    Attributes:
        byte_level: Whether tokens are bytes, as in GPT-2's vocabulary.
        sentencepiece: Whether they have a mark for the space, as in the first Llama's and Gemma's,
            and bytes as ``<0x0A>``.
        special: Ids of tokens without text: begin and end, chat marks, file marks.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self.byte_level = type(decoder).__name__ == "ByteLevel"
        state = b"" if self.byte_level or decoder is None else decoder.__getstate__()
        self.sentencepiece = _SPACE.encode() in state or b"Metaspace" in state
        self.special = special_ids(tokenizer)
        self._bytes: dict[int, bytes] = {}
        self._begun: dict[str, set[int]] = {}

    @functools.cached_property
    def names(self) -> dict[str, int]:
        """Ordinary tokens by their entry in the vocabulary, in which texts are spelled.

        Empty where entries are no pieces of text, as in vocabularies with marks within words.
        """
        left_out = self.special | set(self.tokenizer.added_tokens_decoder)
        found = {
            name: token
            for name, token in self.tokenizer.get_vocab().items()
            if name and token not in left_out and not name.startswith("<0x")
        }
        return found if self.byte_level or self.sentencepiece else {}

    def begun(self, tail: str) -> set[int]:
        """The tokens that spell all of ``tail``, or that and more.

        Of spaces each may be a token of its own, so that tokens that spell some of them count, too.
        Of a word they do not: what begins as another word would seldom come to the right end.

        Args:
            tail: Text as the vocabulary's entries spell it.
        """
        if tail not in self._begun:
            found = {token for name, token in self.names.items() if name.startswith(tail)}
            if not tail.strip("Ġĉ▁"):
                parts = (self.names.get(tail[:length]) for length in range(1, len(tail)))
                found.update(token for token in parts if token is not None)
            self._begun = {tail: found}
        return self._begun[tail]

    def open_ends(self, text: str, ids: Sequence[int]) -> dict[int, str]:
        """Ends of a prompt that may be the beginning of longer tokens.

        A prompt that ends in a space, or in a letter or digit, may go on within the token that its
        last tokens are the beginning of. One that ends in a line end or in punctuation does not.

        Args:
            text: The prompt.
            ids: Its token ids.

        Returns:
            By number of tokens at its end, what they spell.
        """
        found: dict[int, str] = {}
        if not _may_go_on(text) or not self.names:
            return found
        tail = ""
        for count, token in enumerate(reversed(ids[-_MOST_REOPENED:]), 1):
            name = self.tokenizer.convert_ids_to_tokens(token)
            if self.names.get(name) != token:
                break
            tail = name + tail
            if _NEXT_WORD.search(tail):
                break
            if self._is_text(tail) and any(
                len(name) > len(tail) and name.startswith(tail) for name in self.names
            ):
                found[count] = tail
        return found

    def _is_text(self, tail: str) -> bool:
        """Whether a tail begins and ends between two characters."""
        if not self.byte_level:
            return True
        table = _bytes_of_characters()
        try:
            bytes(table[character] for character in tail).decode()
        except (KeyError, UnicodeDecodeError):
            return False
        return True

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; empty for a special token."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._look_up(token)
        return known

    def _look_up(self, token: int) -> bytes:
        if token in self.special:
            return b""
        if self.sentencepiece:
            name = self.tokenizer.convert_ids_to_tokens(token) or ""
            byte = _BYTE.fullmatch(name)
            return bytes([int(byte[1], 16)]) if byte else name.replace(_SPACE, " ").encode()
        if not self.byte_level:
            text: str = self.tokenizer.decode([token], skip_special_tokens=True)
            return text.encode()
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:  # an unused row of the embedding
            return b""
        table = _bytes_of_characters()
        if all(character in table for character in name):
            return bytes(table[character] for character in name)
        return str(name).encode()

    def shown(self, token: int) -> str:
        """The text of a token for display; special tokens by name."""
        if token in self.special:
            return str(self.tokenizer.convert_ids_to_tokens(token))
        return self.bytes_of(token).decode("utf-8", errors="replace")


def _may_go_on(text: str) -> bool:
    """Whether a text ends in a space or within what may be a longer word or number."""
    if not text:
        return False
    last = text[-1]
    if last in "'’":
        return text[-2:-1].isalpha()
    if last.isspace():
        return last.splitlines() != [""]  # no line end
    return unicodedata.category(last)[0] in "LMN"


@functools.lru_cache(maxsize=4)
def vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of ``tokenizer``, cached."""
    return Vocabulary(tokenizer)


class TextOfTokens:
    """Streaming detokeniser: the text of tokens as they come, incomplete characters held back.

    Args:
        words: The vocabulary.
        context: Token ids before the first one: some tokenizers drop a leading space without it.
    """

    def __init__(self, words: Vocabulary, context: Sequence[int] = ()) -> None:
        self.words = words
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids = list(context[-4:])
        # Number of characters of the text of self._ids that add() has returned.
        self._done = 0 if words.byte_level else len(self._text())

    def add(self, token: int) -> str:
        """The text that ``token`` completes; may be empty."""
        if self.words.byte_level:
            return self._decoder.decode(self.words.bytes_of(token))
        self._ids.append(token)
        text = self._text()
        if text.endswith(_REPLACEMENT):
            return ""
        new, self._done = text[self._done :], len(text)
        # Some tokenizers drop the leading space of a first token, hence the overlap.
        if len(self._ids) > 16:
            self._ids = self._ids[-4:]
            self._done = len(self._text())
        return new

    def end(self) -> str:
        """What was held back, incomplete characters as the replacement character."""
        if self.words.byte_level:
            return self._decoder.decode(b"", final=True)
        text = self._text()
        new, self._done = text[self._done :], len(text)
        return new

    def _text(self) -> str:
        text: str = self.words.tokenizer.decode(self._ids, skip_special_tokens=True)
        return text
