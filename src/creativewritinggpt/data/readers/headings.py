"""Headings of chapters in plain text, in many languages.

``CHAPTER I``, ``Chapter 1. Title``, ``Erstes Kapitel``, ``第一章``, ``I.`` with the title on the
next line, ``3``, ``BOOK ONE``, ``Prologue``, a Markdown ``##``, or capitals alone are styles. A
style counts only where the whole text speaks for it (numbers that go up, text between the
headings), so that a lone numeral or a shouted line is not taken for a chapter. Lines are compared
without accents and in the compatible form of Unicode, so that ``ΚΕΦΑΛΑΙΟ`` is ``Κεφάλαιο`` and
``１`` is ``1``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..text import count_words, ends_sentence
from .layout import Block


def _fold(text: str) -> str:
    """The text without accents and points, in the compatible form of Unicode."""
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize(
        "NFC", "".join(c for c in parts if unicodedata.category(c) != "Mn")
    )


def _any(words: str) -> str:
    """An alternative of the words, longest first."""
    return "|".join(sorted(_fold(words).split(), key=len, reverse=True))


_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_MORE = "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth last"
_SPELLED = _any(f"{_ONES} {_MORE}")
_DIGITS = r"\d{1,3}|[ivxlcdm]+"
_NUMBER = rf"(?:{_DIGITS}|(?:{_SPELLED})(?:[- ](?:{_SPELLED}))?|(?:the\s+)?(?:{_any(_ORDINALS)}))"
_ENGLISH_PARTS = "book part volume act canto"
_ENGLISH = re.compile(
    rf"(?P<word>{_any(_ENGLISH_PARTS)}|chapter|letter|stave|section|episode|scene)\s+(?:the\s+)?"
    rf"{_NUMBER}(?=$|[\s.:;,—–-])(?P<rest>.*)",
    re.IGNORECASE,
)
# Books and parts, then chapters, of other languages. Their number may be a word before or after.
_PARTS = (
    "livre partie tome acte libro parte tomo acto atto volumen buch teil band akt boek deel "
    "bok del kniha část díl księga część tom книга часть том частина βιβλίο μέρος könyv rész "
    "osa kısım kitap partea cartea jilid bagian phần quyển الجزء الكتاب جلد חלק ספר भाग खंड "
    "ภาค"
)
_CHAPTERS = (
    "chapitre capítulo capitolo capitol capitolul kapitel kapittel kapitlet hoofdstuk kapitola "
    "rozdział rozdzial глава главы розділ раздел κεφάλαιο κεφάλαιον fejezet luku bölüm bab "
    "chương poglavlje поглавље poglavje skyrius nodaļa peatükk kafli caibidil pennod "
    "kapitulu kapitulli الفصل فصل باب الباب פרק अध्याय परिच्छेद บทที่ ตอนที่ 장 canto brief "
    "lettre carta lettera brev письмо scène escena scena szene"
)
_FOREIGN = rf"(?P<part>{_any(_PARTS)})|(?P<chapter>{_any(_CHAPTERS)})"
_WORD_NUMBER = r"[^\W\d_][^\s\d.:;,—–()]*(?:\s[^\W\d_][^\s\d.:;,—–()]*){0,2}"
# English words, too: with a number in words they say nothing.
_AMBIGUOUS = {"band", "brief", "del", "bok", "bab", "tome", "canto", "bagian"}
_FOREIGN_BEFORE = re.compile(
    rf"(?:{_FOREIGN})\.?\s*(?:n[ro°º]\.?\s*)?(?P<number>{_DIGITS}|{_WORD_NUMBER})"
    r"(?P<sign>$|\s*[.:;,—–)-]|\s)(?P<rest>.*)",
    re.IGNORECASE,
)
_FOREIGN_AFTER = re.compile(
    rf"(?P<number>{_DIGITS}|{_WORD_NUMBER})[.ºª°]?\s*(?:{_FOREIGN})(?P<sign>$|\s*[.:;,—–-])(?P<rest>.*)",
    re.IGNORECASE,
)
_HAN = "〇零一二三四五六七八九十百千兩两廿卅壹贰貳叁參肆伍陆陸柒捌玖拾弐参"
_COUNTED = re.compile(
    rf"(?:第\s*(?:\d+|[{_HAN}]+)\s*(?P<counter>[章回節节話话巻卷冊册部篇編编幕折集場场夜輯辑])"
    r"|제\s*(?:\d+|[일이삼사오육칠팔구십백]+)\s*(?P<korean>[장화부권편회절막])|\d+\s*(?P<plain>[장화권부편])"
    rf"|(?P<volume>[卷巻])\s*(?:\d+|[{_HAN}]+)|(?P<rolls>[上中下][卷巻部篇編编冊册]))(?P<rest>.*)"
)
_COUNTED_PARTS = "巻卷冊册部篇編编集輯辑부권편"
_HAN_ALONE = re.compile(rf"(?P<number>[{_HAN}]+)(?:[、.．,:：]|\s|$)\s*(?P<rest>.*)")
_ROMAN = re.compile(r"(?P<number>[IVXLC]+)(?:[.:)]|\s*[—–-]+)?\s*(?P<rest>.*)")
_ARABIC = re.compile(r"(?P<number>\d{1,3})(?:[.:)]|\s*[—–-]+)?\s*(?P<rest>.*)")
_NAMES = (
    "prologue epilogue interlude prelude preface foreword introduction afterword postscript "
    "conclusion intermezzo coda prólogo epílogo prologo epilogo prolog epilog préface "
    "avant-propos introducción introduction introduzione vorwort nachwort einleitung пролог "
    "эпилог предисловие послесловие вступление πρόλογος επίλογος εισαγωγή 序 序章 序言 序幕 "
    "前言 自序 楔子 引子 尾声 尾聲 終章 终章 後記 后记 番外 プロローグ エピローグ はじめに "
    "あとがき まえがき 幕間 프롤로그 에필로그 서장 종장 머리말"
)
_NAMED = re.compile(rf"(?:{_any(_NAMES)})(?:\s*[.:—–-]+\s*(?P<rest>\S.*))?[.]?", re.IGNORECASE)
_MARKDOWN = re.compile(r"(?P<marks>#{1,6})\s+(?P<rest>\S.*?)\s*#*")
_MATTER = re.compile(
    r"(?:table of )?contents|(?:list of )?illustrations|dedication|copyright|(?:©|copyright).{0,60}"
    r"|acknowledge?ments?|about the authors?|(?:also|books|other (?:books|works)) by .{2,60}"
    r"|by the same author|transcriber[’']?s[’']? notes?|footnotes|index|bibliography|glossary"
    r"|advertisements?|colophon|errata|table des (?:matieres|chapitres)|sommaire|inhalt"
    r"|inhaltsverzeichnis|indice|sumario|inhoud(?:sopgave)?|spis tresci|obsah|содержание|оглавление"
    r"|περιεχομενα|目录|目錄|目次|もくじ|차례|목차|المحتويات|תוכן(?: העניינים)?",
    re.IGNORECASE,
)
_TITLE_LENGTH = 80
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


@dataclass(frozen=True, slots=True)
class Heading:
    """Heading in one line, of blocks ``first`` to ``after``; level 0 for books and parts."""

    first: int
    after: int
    level: int
    title: str


def is_matter(title: str) -> bool:
    """Whether it is the heading of something that is not the story."""
    return bool(_MATTER.fullmatch(_fold(title.strip(" .:*#_"))))


def is_prose(block: Block) -> bool:
    """Whether the block reads as sentences: mostly words in lower case, or a sentence's end."""
    text = block.text
    if text.lower() == text.upper():  # a script without cases
        count = count_words(text)
        return count >= 40 or (count >= 8 and any(map(ends_sentence, block.lines)))
    words = [word for word in text.split() if word[:1].isalpha()]
    lower = sum(word[0].islower() for word in words)
    return len(words) >= 8 and lower > 0.5 * len(words)


def _roman(numeral: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(value if value >= following else -value for value, following in pairs)


def _han(numeral: str) -> int:
    """A number below a thousand in Han numerals."""
    total = digit = 0
    for sign in numeral:
        value = int(unicodedata.numeric(sign, 0))
        if value >= 10:
            total, digit = total + max(1, digit) * value, 0
        else:
            digit = value
    return total + digit


_NUMERALS: dict[str, tuple[re.Pattern[str], Callable[[str], int]]] = {
    "roman": (_ROMAN, _roman),
    "arabic": (_ARABIC, int),
    "han": (_HAN_ALONE, _han),
}


def is_title(text: str) -> bool:
    """Whether a short line can be a title: capitals, or capitalised words without a full stop."""
    words = [word.strip("“”‘’\"'(),.:;!?—-_*«»") for word in text.split()]
    words = [word for word in words if word[:1].isalpha()]
    if not words or len(text) > _TITLE_LENGTH or len(words) > 14:
        return False
    if text.lower() == text.upper():  # a script without cases
        return len(text) <= 30 and not ends_sentence(text) and text[-1] not in "」』，、：；"
    if text.upper() == text:
        return True
    if text.rstrip()[-1] in '.,;:”"’' or text.lstrip()[0] in "“\"‘'—-":
        return False
    return all(word[0].isupper() for word in words if len(word) > 3) and words[0][0].isupper()


def _restis_title(rest: str) -> bool:
    rest = rest.strip(" .:;,—–-)、．：")
    return not rest or (len(rest) <= _TITLE_LENGTH and not rest[0].islower())


@dataclass(frozen=True, slots=True)
class _Candidate:
    block: int
    style: str
    level: int
    number: int | None
    titled: bool


def _keyword(line: str) -> tuple[str, int, str, bool] | None:
    """Style, level, rest and whether the number is a word, of a line that begins with a keyword."""
    folded = _fold(line)
    if found := _ENGLISH.fullmatch(folded):
        word = found["word"].lower()
        level = 0 if word in _ENGLISH_PARTS.split() else 3 if word == "scene" else 1
        return word, level, found["rest"], False
    if found := _COUNTED.fullmatch(folded):
        counter = next(v for k, v in found.groupdict().items() if v and k != "rest")[-1]
        rest = found["rest"]
        set_apart = not rest or not rest[0].isalnum()
        if not set_apart and (len(line) > 25 or ends_sentence(line) or found["plain"]):
            return None
        return counter, 0 if counter in _COUNTED_PARTS else 1, rest, not set_apart
    if line.isascii() and not line[0].isalnum():
        return None
    for pattern in (_FOREIGN_BEFORE, _FOREIGN_AFTER):
        if found := pattern.fullmatch(folded):
            word = (found["part"] or found["chapter"]).lower()
            in_words = not re.fullmatch(_DIGITS, found["number"], re.IGNORECASE)
            crowded = len(line.split()) > 5 and not found["sign"].strip()
            if in_words and (word in _AMBIGUOUS or crowded):
                continue
            return word, 0 if found["part"] else 1, found["rest"], in_words
    return None


def _candidate(number: int, block: Block) -> _Candidate | None:
    if len(block.lines) > 3 or len(block.text) > 2 * _TITLE_LENGTH:
        return None
    line = block.lines[0].strip().strip("*_").strip()
    several = len(block.lines) > 1
    others = [_keyword(further.strip()) for further in block.lines[1:]]
    if not line or any(other is not None and not other[3] for other in others):
        return None  # a list of contents
    if (found := _MARKDOWN.fullmatch(line)) and not several:
        return _Candidate(number, "markdown", len(found["marks"]), None, True)
    if (keyword := _keyword(line)) and not line[0].islower() and _restis_title(keyword[2]):
        word, level, rest, in_words = keyword
        style = f"{word} in words" if in_words else word
        return _Candidate(number, style, level, None, several or bool(rest.strip(" .:—")))
    folded = _fold(line)
    if (found := _NAMED.fullmatch(folded)) and not line[0].islower():
        return _Candidate(number, "named", 1, None, several or bool(found["rest"]))
    for style, (pattern, value) in _NUMERALS.items():
        found = pattern.fullmatch(folded)
        if found is None:
            continue
        rest = found["rest"].strip()
        marked = not rest or style == "han" or folded[len(found["number"])] in ".:)—–- "
        if marked and (not rest or (is_title(rest) and found["number"] != folded.split()[0])):
            return _Candidate(number, style, 2, value(found["number"]), several or bool(rest))
    capitals = sum(map(str.isupper, line)) >= 3 and line.upper() == line
    if capitals and (block.gap >= 2 or number == 0) and not several and len(line) <= 60:
        return _Candidate(number, "capitals", 2, None, True)
    return None


def _goes_up(numbers: Sequence[int]) -> bool:
    """Whether numbers count from 1, beginning again here and there, with few mistakes."""
    steps = list(zip(numbers, numbers[1:], strict=False))
    good = sum(after == before + 1 or after == 1 for before, after in steps)
    return len(numbers) >= 2 and numbers[0] == 1 and good >= 0.7 * len(steps)


def _between(candidates: Sequence[_Candidate], text: Sequence[Block]) -> float:
    """The median number of words between one candidate and the next."""
    ends = [candidate.block for candidate in candidates[1:]] + [len(text)]
    return median(
        sum(block.words for block in text[candidate.block + 1 : end])
        for candidate, end in zip(candidates, ends, strict=True)
    )


def page_numbers(text: Sequence[Block]) -> set[int]:
    """The blocks that are page numbers: alone on a line, rising, and often amid a sentence."""
    found = [
        (number, int(match[0]))
        for number, block in enumerate(text)
        if len(block.lines) == 1
        and (match := re.search(r"\d{1,4}", block.text))
        and re.fullmatch(r"[-–—\[ ]*(?:p(?:age|g)?\.? *)?\d{1,4}[-–—\] ]*", block.text, re.I)
    ]
    if len(found) < 5:
        return set()
    rising = sum(b == a + 1 for (_, a), (_, b) in zip(found, found[1:], strict=False))
    amid = sum(
        number > 0 and text[number - 1].text[-1:] not in ".!?…”\"’'»)*。！？」』"
        for number, _ in found
    )
    if rising < 0.8 * (len(found) - 1) or amid < 0.15 * len(found):
        return set()
    return {number for number, _ in found}


def find_headings(text: Sequence[Block]) -> list[Heading]:
    """The headings of chapters, in order; contents lists are still among them."""
    styles: dict[str, list[_Candidate]] = {}
    for number, block in enumerate(text):
        candidate = _candidate(number, block)
        if candidate is not None:
            styles.setdefault(candidate.style, []).append(candidate)
    capitals = styles.pop("capitals", [])
    for style in list(styles):
        found = styles[style]
        numbers = [candidate.number or 0 for candidate in found]
        counted = style not in _NUMERALS or _goes_up(numbers)
        alone = style.endswith(" in words") and style.removesuffix(" in words") not in styles
        if not counted or (alone and len(found) < 2):
            del styles[style]
    if set(styles) <= {"named"} and len(capitals) >= 3 and _between(capitals, text) >= 150:
        styles["capitals"] = capitals
    chosen = sorted((c for found in styles.values() for c in found), key=lambda c: c.block)
    starts = {candidate.block for candidate in chosen}
    headings = []
    for candidate in chosen:
        after = candidate.block + 1
        parts = [_plain(line) for line in text[candidate.block].lines]
        following = text[after] if after + 1 < len(text) and after not in starts else None
        if (
            not candidate.titled
            and following is not None
            and len(following.lines) <= 2
            and not is_matter(following.text)
            and is_title(following.text)
        ):
            parts += [_plain(line) for line in following.lines]
            after += 1
        headings.append(Heading(candidate.block, after, candidate.level, one_line(parts)))
    return headings


def _plain(line: str) -> str:
    """A line of a heading without the marks of emphasis."""
    return line.replace("_", "").strip(" #*")


def one_line(parts: Iterable[str]) -> str:
    """``I.`` and ``THE EVE OF THE WAR.`` as ``I. THE EVE OF THE WAR``."""
    title = ""
    for part in parts:
        title += part if not title else f" {part}" if title[-1] in ".:—" else f". {part}"
    return title.rstrip(" .:") or title
