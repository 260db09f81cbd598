"""WritingPrompts: stories that people wrote to prompts on a forum.

Known as rows of prompt and story, as on the hub, and as fairseq's pairs of files (``.wp_source``,
``.wp_target``, a line each). Prompts lose their tag; stories lose the tokeniser's marks, notes to
readers (``EDIT:``), links and advertisements of the author's own page. Off-topic threads, removed
posts and notes of moderators and bots are not kept. Explicit stories are flagged and counted.

Copies of the set went through a tokeniser of the Penn Treebank's kind, which sets punctuation and
``n't`` apart by spaces and writes quotation marks as ```` `` ```` and ``''``.
:func:`undo_treebank` changes only spaces and those marks, and is idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from ...errors import InputError
from .. import text as encoding
from ..document import Document, Reading
from ..readers.columns import Row, cell_text
from ..readers.layout import SCENE_BREAK
from ..readers.tables import Table, row_group
from ..text import clean, clean_line, count_words, is_explicit
from . import HubSet, NamedSource, RowForm, TextForm, official_split, per_row

# Each pattern begins with what is rare in prose, and is tried only where that occurs at all.
_CLOSING_BACKTICKS = re.compile(r" ?``(?= ?(?:[,.!?;:)]|\n|$))")
_OPENING_BACKTICKS = re.compile(r"`` ?")
_OPENING_TICKS = re.compile(r"''(?<![^\n(*]'') ?(?=\w)")
_CLOSING_TICKS = re.compile(r" ?''")
_NEGATION = re.compile(r" n(?<=\w n)(['’])t\b")
_SET_APART = re.compile(r" (?<=\w )(['’]) ?(s|d|ll|re|ve|m|t)\b(?!['’])")
_TORN = re.compile(r"['’](?<=\w['’]) (?=(?:s|d|ll|re|ve|m|t)\b(?!['’]))")
_OPENING = re.compile(r"([“‘(\[{]) (?=\S)")
_CLOSING = re.compile(r" (?<=\S )([”’)\]}])(?!\w)")
_PUNCTUATION = re.compile(r" (?<=\S )([,.!?;:…%])(?![\w(])")
_CURRENCY = re.compile(r"([$£€]) (?=\d)")
_SCHEME = re.compile(r"(?<=http:) (?=//)|(?<=https:) (?=//)")

_TAGS = (
    "wp|sp|eu|cw|tt|pi|rf|ip|mp|pm|ot|cc|ff|cs|tl|nano|nsfw|meta|mod|modpost|mod post|theme|poetry"
)
_TAG = re.compile(rf"\s*[\[(]\s*({_TAGS})\s*[\])]\s*", re.IGNORECASE)
_NO_STORY_TAGS = {"ot", "pm", "meta", "mod", "modpost", "mod post", "nano"}
_LINK = re.compile(r"\[ ?([^\[\]]{1,300}?) ?\] ?\( ?https?: ?//[^()]*(?:\([^()]*\)[^()]*)*\)")
_URL = re.compile(r"<?\bhttps?: ?//\S+>?|\bwww\.\S+")
_EDIT = re.compile(r"[\s*_(\[>^-]*edits?\b[\s*_]*\d{0,2}[\s\d&*_]*[:;–—-]", re.IGNORECASE)
_SITE = re.compile(r"(?<![\w/])/?[ru]/\w+|\bsub-?reddits?\b|\breddit\b", re.IGNORECASE)
_RULE = re.compile(r"(?:\s*\\)?[\s*=_~#\-–—•·]{3,}(?:\\\*?\s*)?")
_STARS = re.compile(r"(?<![\w*])\*{1,3} ?(?=\S)([^*\n]{1,600}?)(?<=\S) ?\*{1,3}(?![\w*])")
_QUOTE_MARK = re.compile(r"^\s{0,80}>+ ?", re.MULTILINE)
_BOT = re.compile(
    r"off-topic discussion|i am a bot|this is a bot|contact the moderators|has been removed"
    r"|welcome to the prompt",
    re.IGNORECASE,
)
_GONE = re.compile(r"\s*\[? ?(?:deleted|removed) ?\]?\s*", re.IGNORECASE)
_FEWEST_WORDS = 30


def _any(marks: str, text: str, before: str = "", after: str = "") -> bool:
    return any(f"{before}{mark}{after}" in text for mark in marks)


def _undo_once(text: str) -> str:
    if "``" in text:
        text = _OPENING_BACKTICKS.sub('"', _CLOSING_BACKTICKS.sub('"', text))
    if "''" in text:
        text = _CLOSING_TICKS.sub('"', _OPENING_TICKS.sub('"', text))
    if _any("'’", text, before=" n", after="t"):
        text = _NEGATION.sub(r"n\1t", text)
    if _any("'’", text, before=" "):
        text = _SET_APART.sub(r"\1\2", text)
    if _any("'’", text, after=" "):
        text = _TORN.sub(lambda found: found[0][0], text)
    if _any(",.!?;:…%", text, before=" "):
        text = _PUNCTUATION.sub(r"\1", text)
    if _any("“‘([{", text, after=" "):
        text = _OPENING.sub(r"\1", text)
    if _any("”’)]}", text, before=" "):
        text = _CLOSING.sub(r"\1", text)
    if _any("$£€", text, after=" "):
        text = _CURRENCY.sub(r"\1", text)
    if ": //" in text:
        text = _SCHEME.sub("", text)
    return text


def undo_treebank(text: str) -> str:
    """Prose with its punctuation where writers put it."""
    # What one step removes can bring two others together; every step makes the text shorter.
    while (changed := _undo_once(text)) != text:
        text = changed
    return text


def spaced_share(texts: list[str]) -> float:
    """The share of texts that show the marks of such a tokeniser."""
    marks = re.compile(r"\w [,.!?](?: |$)|``|\bn't\b(?<= n't)| <newline> |\( \w|“ \w")
    return sum(bool(marks.search(text)) for text in texts) / max(1, len(texts))


def clean_prompt(prompt: str) -> tuple[str, set[str]]:
    """The prompt without its tags, and the tags in lower case."""
    tags: set[str] = set()
    text = clean_line(undo_treebank(clean(prompt)))
    while found := _TAG.match(text):
        tags.add(found[1].lower())
        text = text[found.end() :]
    return text, tags


def without_links(text: str) -> str:
    """Links as their words; bare addresses go."""
    if "http" not in text and "www." not in text:
        return text
    return _URL.sub("", _LINK.sub(r"\1", text))


def without_notes(text: str) -> tuple[str, int]:
    """The story without its author's notes to readers, and how many there were.

    Notes are lines that begin with ``Edit:``, and short paragraphs among the last three that speak
    of the site. A page of the site that a story itself speaks of stays.
    """
    paragraphs = text.strip().split("\n\n")
    kept: list[str] = []
    notes = 0
    edited = "dit" in text or "DIT" in text
    for number, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        if edited:
            lines = [line for line in lines if not _EDIT.match(line)]
        notes += paragraph.count("\n") + 1 - len(lines)
        late = number >= max(1, len(paragraphs) - 3)
        if late and count_words(paragraph) <= 60 and _SITE.search(paragraph):
            notes += 1 if lines else 0
            continue
        if lines:
            kept.append("\n".join(lines))
    return "\n\n".join(kept), notes


def _prose(text: str) -> str:
    """One step of taking away what the site and the tokeniser put in."""
    text = clean(text.replace("<newline>", "\n"))
    text = without_links(text)
    text = undo_treebank(clean(_QUOTE_MARK.sub("", text) if ">" in text else text))
    lines = [line.strip() for line in text.split("\n")]
    marked = "\n".join(
        SCENE_BREAK if line and not line[0].isalnum() and _RULE.fullmatch(line) else line
        for line in lines
    )
    if "*" in marked:
        marked = _STARS.sub(r"\1", marked)
    if marked != text:
        text = undo_treebank(clean(marked))
    while text.endswith(SCENE_BREAK):
        text = text.removesuffix(SCENE_BREAK).rstrip()
    return text


def clean_story(story: str) -> tuple[str, int]:
    """The story as prose, and how many notes to readers it lost."""
    text, notes = clean(story.replace("<newline>", "\n")), 0
    while True:
        # What one step takes away can uncover more.
        without, found = without_notes(text)
        changed = _prose(without)
        notes += found
        if changed == text:
            return text, notes
        text = changed


def is_story(document: Document) -> bool:
    """Whether a document is a story: 30 words or more, not removed, not a bot's or moderator's."""
    start = document.text[:400]
    return (
        not _GONE.fullmatch(document.text)
        and not _BOT.search(start)
        and document.words >= _FEWEST_WORDS
    )


def make_document(
    prompt: str, story: str, reading: Reading, group: str, split: str | None
) -> Document | None:
    """One document, or None where the post is no story; what happened is counted."""
    said, tags = clean_prompt(prompt)
    if tags & _NO_STORY_TAGS:
        reading.report.drop("posts off the topic")
        return None
    text, notes = clean_story(story)
    reading.report.drop("notes to readers", notes)
    if not text:
        reading.report.drop("rows without text")
        return None
    if "nsfw" in tags or is_explicit(text):
        reading.report.flag("explicit")
    group = row_group(group, 0, said or None)
    return Document("writingprompts", group, text, prompt=said or None, split=split)


@per_row
def _from_rows(row: Row, reading: Reading, label: str, number: int) -> Document | None:
    prompt, story = cell_text(row.get("prompt")) or "", cell_text(row.get("story")) or ""
    return make_document(prompt, story, reading, f"{label}:{number}", official_split(label))


def _from_pairs(path: Path, reading: Reading, label: str) -> Iterator[Document]:
    target = path.with_suffix(".wp_target")
    if not target.is_file():
        raise InputError(
            f"{target} does not exist", f"{path.name} holds the prompts; put the stories beside it"
        )
    split = official_split(label)
    pairs = zip_longest(
        encoding.lines(path, reading.report.note, reading.advance),
        encoding.lines(target, reading.report.note, reading.advance),
    )
    for number, (prompt, story) in enumerate(pairs, 1):
        if prompt is None or story is None:
            longer, shorter = (path, target) if story is None else (target, path)
            raise InputError(
                f"{longer} has more lines than {shorter}: line {number} has no partner",
                "the two files must be of the same split, whole and in the same order",
            )
        made = make_document(prompt, story, reading, f"{label}:{number}", split)
        if made is not None:
            yield made


def _rows_look_right(table: Table) -> bool:
    prompts = [cell_text(row.get("prompt")) or "" for row in table.head]
    tagged = sum(bool(_TAG.match(prompt)) for prompt in prompts) / len(prompts)
    return tagged > 0.3 or spaced_share(prompts) > 0.5


SOURCE = NamedSource(
    name="writingprompts",
    rows=(
        RowForm(
            description="WritingPrompts rows of prompt and story",
            has_columns={"prompt", "story"}.issubset,
            looks_right=_rows_look_right,
            documents=_from_rows,
        ),
    ),
    texts=(
        TextForm(
            description="WritingPrompts pairs of fairseq",
            endings=(".wp_source",),
            looks_right=lambda _: True,
            documents=_from_pairs,
        ),
    ),
    keep=is_story,
    hub=HubSet("euclaise/writingprompts", splits={"train": "train", "validation": "validation"}),
)
