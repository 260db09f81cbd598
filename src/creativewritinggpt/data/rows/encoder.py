"""Texts to token ids by the model's own tokenizer, each different word only once.

A byte-level BPE tokenizer first cuts a text into pieces (roughly words with the space before them)
by a fixed pattern and then encodes every piece by itself. Prose repeats its words, so here the
pieces are found by the same pattern, each new one is encoded by the tokenizer, and the rest is
looked up: about ten times as fast as handing it whole texts. That works for tokenizers whose
pattern is known to mean the same here, and for texts of characters that every version of Unicode
classes alike; everything else takes the usual way. Some texts of the first batch and one of each
later one are encoded both ways, and if they ever differ, all go the usual way from then on.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ..document import SEPARATOR, Document

Ids = npt.NDArray[np.int32]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CLASS = re.compile(r"\[(?:\\.|[^\]\\])*\]")
_ODD_SPACE = re.compile(r"[^\S \n]")
_MOST_WORDS = 300_000
_FIRST_CHECKS = 8


def _ranges(characters: Sequence[int]) -> str:
    """The characters as what stands between the brackets of a regular expression."""
    parts: list[str] = []
    first = before = -1
    for character in [*characters, -1]:
        if character != before + 1 or character == -1:
            if before >= 0:
                parts.append(f"\\u{first:04x}-\\u{before:04x}")
            first = character
        before = character
    return "".join(parts)


@functools.cache
def _classes() -> tuple[str, str, re.Pattern[str]]:
    """Letters, digits, and texts of characters whose classes are beyond doubt.

    Beyond doubt is what Unicode has classed alike since version 3.2, so that the tokenizer's tables
    and Python's agree whatever their age.
    """
    stable = [
        number
        for number in range(0x10000)
        if unicodedata.category(chr(number)) == unicodedata.ucd_3_2_0.category(chr(number))
    ]
    kinds = {number: unicodedata.category(chr(number)) for number in stable}
    doubtful = ("Cc", "Cn", "Co", "Cs")
    known = [n for n, kind in kinds.items() if kind not in doubtful or chr(n) in "\t\n\r"]
    letters = _ranges([number for number in known if kinds[number][0] == "L"])
    digits = _ranges([number for number in known if kinds[number][0] == "N"])
    return letters, digits, re.compile(f"[{_ranges(known)}]*")


def _translated(pattern: str) -> re.Pattern[str] | None:
    """The tokenizer's pattern with its classes of letters and digits spelled out, if possible."""
    letters, digits, _ = _classes()

    def inside(found: re.Match[str]) -> str:
        return found[0].replace(r"\p{L}", letters).replace(r"\p{N}", digits)

    spelled = _CLASS.sub(inside, pattern)
    spelled = spelled.replace(r"\p{L}", f"[{letters}]").replace(r"\p{N}", f"[{digits}]")
    if r"\p" in spelled or r"\P" in spelled or "&&" in spelled:
        return None
    try:
        return re.compile(spelled)
    except re.error:
        return None


def piece_pattern(definition: dict[str, Any]) -> re.Pattern[str] | None:
    """The pattern by which a tokenizer cuts texts into pieces, or None where it is another kind.

    Args:
        definition: The tokenizer's JSON.
    """
    normalizer = (definition.get("normalizer") or {}).get("type", "NFC")
    stages = definition.get("pre_tokenizer") or {}
    stages = stages.get("pretokenizers", [stages])
    digits = bool(stages) and stages[0].get("type") == "Digits"
    if digits:
        if not stages[0].get("individual_digits"):
            return None
        stages = stages[1:]
    kinds = [stage.get("type") for stage in stages]
    last = stages[-1] if stages else {}
    if normalizer != "NFC" or last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        pattern = _GPT2
        if digits:
            # Every digit is cut out first, so that a space before one is the end of its part.
            pattern = r"\s+(?=\p{N})|" + pattern.replace(r" ?\p{N}+", r"\p{N}")
        return _translated(pattern)
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True) and not digits:
        split = stages[0]
        given = split.get("pattern", {}).get("Regex")
        if given and split.get("behavior") == "Isolated" and not split.get("invert"):
            return _translated(given)
    return None


def definition_of(tokenizer: Any) -> str:
    """All that a fast tokenizer of transformers is, as JSON."""
    definition: str = tokenizer.backend_tokenizer.to_str()
    return definition


class Encoder:
    """Encodes texts as plain characters: no special token is added or recognised."""

    def __init__(self, definition: str) -> None:
        """Make it of a tokenizer's definition, as :func:`definition_of` gives it."""
        from tokenizers import Tokenizer

        self._plain = Tokenizer.from_str(definition)
        self._plain.no_truncation()
        self._plain.no_padding()
        self._plain.encode_special_tokens = True
        described = json.loads(self._plain.to_str())
        self._pattern = piece_pattern(described)
        # Added tokens that are not special are recognised across pieces.
        self._added = [
            token["content"] for token in described["added_tokens"] if not token["special"]
        ]
        self._pieces: dict[str, bytes] = {}
        self._words: dict[str, bytes] = {}
        self._checks = _FIRST_CHECKS

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""
        made: list[Ids | None] = [None] * len(texts)
        if self._pattern is not None:
            simple = [number for number, text in enumerate(texts) if self._is_simple(text)]
            found = self._looked_up(self._pattern, [texts[number] for number in simple])
            for number, ids in zip(simple, found, strict=True):
                made[number] = ids
            check = simple[-self._checks :]
            self._checks = 1
            for number, ids in zip(check, self._usual([texts[i] for i in check]), strict=True):
                if not np.array_equal(ids, found[simple.index(number)]):
                    self._pattern = None
                    return self.encode(texts)
        rest = [number for number, ids in enumerate(made) if ids is None]
        for number, ids in zip(rest, self._usual([texts[i] for i in rest]), strict=True):
            made[number] = ids
        return [ids for ids in made if ids is not None]

    def _is_simple(self, text: str) -> bool:
        if text.isascii():
            # No control character, hence no white space but the space and the new line.
            known = text.replace("\n", "").isprintable()
        else:
            known = bool(_classes()[2].fullmatch(text)) and unicodedata.is_normalized("NFC", text)
        return known and not any(added in text for added in self._added)

    def _usual(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encoded]

    def _looked_up(self, pattern: re.Pattern[str], texts: Sequence[str]) -> list[Ids]:
        """Cut at single spaces, where no piece can span, and look up what stands between them."""
        # What follows a space is looked up without it: to cut is then all that is done to a text.
        heads, tails = [], []
        for text in texts:
            head, *tail = [text] if _has_space_run(text) else text.split(" ")
            heads.append(head)
            tails.append(tail)
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        new = list({*chain.from_iterable(tails)} - self._words.keys())
        cut = [pattern.findall(f" {word}") for word in new]
        first = [pattern.findall(head) for head in heads]
        self._learn({*chain.from_iterable(cut), *chain.from_iterable(first)})
        piece, word_ids = self._pieces.__getitem__, self._words.__getitem__
        for word, pieces in zip(new, cut, strict=True):
            self._words[word] = b"".join(map(piece, pieces))
        return [
            np.frombuffer(b"".join([*map(piece, head), *map(word_ids, tail)]), dtype=np.int32)
            for head, tail in zip(first, tails, strict=True)
        ]

    def _learn(self, pieces: set[str]) -> None:
        """Have the tokenizer encode the pieces that are new."""
        if len(self._pieces) > _MOST_WORDS:
            self._pieces.clear()
        new = list(pieces - self._pieces.keys())
        for piece, ids in zip(new, self._usual(new), strict=True):
            self._pieces[piece] = ids.tobytes()


def _has_space_run(text: str) -> bool:
    """Whether a space stands beside other white space, or at the end; such runs belong together."""
    return (
        "  " in text
        or " \n" in text
        or "\n " in text
        or text.endswith(" ")
        or not (text.isascii() or _ODD_SPACE.search(text) is None)
    )


def encode_documents(encoder: Encoder, batch: Sequence[Document]) -> tuple[Ids, Ids, Ids]:
    """The ids of some documents, prompt and text together.

    Returns:
        All ids one after another, ``[documents]`` how many of them each has, and ``[documents]``
        how many of those are its prompt and the empty line after it. A token that spans prompt and
        text counts as text.
    """
    ids = encoder.encode([document.full_text() for document in batch])
    lengths = np.zeros(len(batch), dtype=np.int32)
    prompted = [i for i, document in enumerate(batch) if document.prompt]
    prompts = encoder.encode([f"{batch[i].prompt}{SEPARATOR}" for i in prompted])
    for i, prompt in zip(prompted, prompts, strict=True):
        lengths[i] = _common(prompt, ids[i])
    counts = np.array([len(piece) for piece in ids], dtype=np.int32)
    return np.concatenate([np.zeros(0, np.int32), *ids]), counts, lengths


def _common(first: Ids, second: Ids) -> int:
    """How many leading ids agree."""
    shorter = min(len(first), len(second))
    differ = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differ[0]) if len(differ) else shorter
