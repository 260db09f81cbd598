"""A story as the page sees it beside its text: who wrote what, branches, chapters, the tree."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ..data.text import count_words
from ..story.tree import NOTHING, Lore, Passage, Story

_BEGINS = 60


def utf16_length(text: str) -> int:
    """Length of a text in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Outline:
    """What the page shows of a story, with what was counted before kept.

    Args:
        story: The story.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self._words: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        self._upto: dict[int, int] = {NOTHING: 0}
        self._siblings: defaultdict[int, list[int]] = defaultdict(list)
        self._seen = 0

    def forget(self, mark: int) -> None:
        """Passages from number ``mark`` on may have become others."""
        self._upto = {id: words for id, words in self._upto.items() if id < mark}
        if self._seen > mark:
            for passage in self.story.passages[mark : self._seen]:
                if _original(passage):
                    self._siblings[passage.parent].remove(passage.id)
            self._seen = mark

    def words_upto(self, head: int) -> int:
        """Number of words up to and with a passage."""
        way = []
        place = head
        while place not in self._upto:
            way.append(place)
            place = self.story.passages[place].parent
        for place in reversed(way):
            passage = self.story.passages[place]
            before = self._upto[passage.parent]
            if passage.parent != NOTHING and passage.text:
                last = self.story.passages[passage.parent].text[-1:]
                # A word that two passages share is counted once.
                before -= bool(last) and not last.isspace() and not passage.text[0].isspace()
            self._upto[place] = before + self._count(passage.text)
        return self._upto[head]

    def _count(self, text: str) -> int:
        if text not in self._words:
            if len(self._words) > 50_000:
                self._words.clear()
            self._words[text] = count_words(text)
        return self._words[text]

    def _length(self, text: str) -> int:
        if text.isascii():
            return len(text)
        if text not in self._lengths:
            if len(self._lengths) > 50_000:
                self._lengths.clear()
            self._lengths[text] = utf16_length(text)
        return self._lengths[text]

    def _versions(self) -> defaultdict[int, list[int]]:
        """The passages as the model wrote them, by what stands before them."""
        for passage in self.story.passages[self._seen :]:
            if _original(passage):
                self._siblings[passage.parent].append(passage.id)
        self._seen = len(self.story.passages)
        return self._siblings

    def fields(self) -> dict[str, Any]:
        """All that the page shows beside the text."""
        story, state = self.story, self.story.state
        siblings = self._versions()
        passages: list[dict[str, Any]] = []
        chapters: list[dict[str, Any]] = []
        place = words = 0
        for passage in story.path():
            end = place + self._length(passage.text)
            upto = self.words_upto(passage.id)
            if passage.by == "chapter":
                title = " ".join(passage.text.split())
                chapters.append({"title": title, "from": place, "words": 0, "passage": passage.id})
            elif not chapters and passage.text.strip():
                chapters.append({"title": "", "from": place, "words": 0, "passage": passage.id})
            if chapters and passage.by != "chapter":
                chapters[-1]["words"] += upto - words
            alike = siblings[passage.parent] if _original(passage) else [passage.id]
            passages.append(
                {
                    "id": passage.id, "parent": passage.parent, "by": passage.by,
                    "from": place, "to": end, "words": upto - words,
                    "begins": " ".join(passage.text[:200].split())[:_BEGINS],
                    "seed": passage.seed, "versions": len(alike),
                    "version": alike.index(passage.id) + 1, "copy": passage.copy_of,
                    "aside": False,
                }
            )  # fmt: skip
            place, words = end, upto
        later = story.history[story.cursor + 1 : story.cursor + 2]
        return {
            "title": state.title, "memory": state.memory, "note": state.note,
            "lore": [lore_record(lore) for lore in state.lore],
            "branch": state.branch,
            "branches": [
                {"name": name, "head": head, "words": self.words_upto(head)}
                for name, head in state.heads
            ],
            "passages": passages, "chapters": chapters, "words": words,
            "undo": state.did if story.cursor else None, "redo": later[0].did if later else None,
            "choices": len(story.choices),
        }  # fmt: skip

    def tree(self) -> list[dict[str, Any]]:
        """All passages that lead somewhere: to a branch, or to text of the model set aside.

        Copies that an edit left behind are no versions, so that they are no leaves of the tree.
        """
        story = self.story
        heads: dict[int, list[str]] = {}
        here: set[int] = set()
        for name, head in story.state.heads:
            heads.setdefault(head, []).append(name)
            place = head
            while place != NOTHING and place not in here:
                here.add(place)
                place = story.passages[place].parent
        kept = set(here)
        for passage in story.passages:
            place = passage.id
            if not _original(passage):
                continue
            while place != NOTHING and place not in kept:
                kept.add(place)
                place = story.passages[place].parent
        return [
            {
                "id": passage.id, "parent": passage.parent, "by": passage.by,
                "begins": " ".join(passage.text[:200].split())[:_BEGINS],
                "words": self._count(passage.text), "seed": passage.seed,
                "branches": heads.get(passage.id, []), "aside": passage.id not in here,
                "copy_of": passage.copy_of,
            }
            for passage in story.passages
            if passage.id in kept
        ]  # fmt: skip


def _original(passage: Passage) -> bool:
    """Whether the model wrote it as it is."""
    return passage.by == "model" and passage.copy_of is None


def lore_record(lore: Lore) -> dict[str, Any]:
    """An entry of lore as the page gets it."""
    return {
        "keys": list(lore.keys), "text": lore.text, "always": lore.always,
        "secondary": list(lore.secondary), "excluding": list(lore.excluding),
        "probability": lore.probability,
    }  # fmt: skip


def difference(old: str, new: str) -> tuple[int, int, str]:
    """The part in which two texts differ: where it begins and ends in ``old``, and its new text."""
    most = min(len(old), len(new))
    low, high = 0, most
    while low < high:  # common beginning, by halves
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    begin, low, high = low, 0, most - low
    while low < high:
        middle = (low + high + 1) // 2
        if old[len(old) - middle : len(old) - low] == new[len(new) - middle : len(new) - low]:
            low = middle
        else:
            high = middle - 1
    return begin, len(old) - low, new[begin : len(new) - low]
