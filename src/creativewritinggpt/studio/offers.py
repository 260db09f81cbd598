"""Drafts that wait for an answer, and the order in which they are shown: best first.

An offer is the newest choice of a story in which nothing was taken. It stands in the story file, so
its cards come back after a reload or a restart. The order is learnt from the choices of the story
(:mod:`..taste.ranker`), in a thread of its own: after each pick, and while drafts are written.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import UserError
from ..story.tree import Passage, Story

if TYPE_CHECKING:
    from ..taste.ranker import Ranker

_WAIT = 2.0  # seconds that cards wait for their order


class Shown(Protocol):
    """Texts that were written side by side, after the passage ``parent``."""

    @property
    def cards(self) -> list[dict[str, Any]]:
        """What the page is told of each."""

    @property
    def parent(self) -> int:
        """Id of the passage before them."""

    @property
    def order(self) -> Sequence[int]:
        """Indices of the cards as they are shown."""


class Offered(NamedTuple):
    """Cards of an offer that was found in the story."""

    cards: list[dict[str, Any]]
    parent: int

    @property
    def order(self) -> Sequence[int]:
        """As they were shown."""
        return range(len(self.cards))


def open_offer(story: Story, known: dict[str, Shown]) -> dict[str, Any] | None:
    """The newest choice, as cards, where it waits for an answer at the end of the branch.

    Args:
        story: The story.
        known: Cards by the id of their job; an offer that is not among them is added.

    Returns:
        ``job``, ``rows`` and their ``order``; None where there is no such offer.
    """
    last = story.choices[-1] if story.choices else None
    if last is None or last.kind != "pick" or last.chosen is not None or len(last.offered) < 2:
        return None
    passages = [story.passages[id] for id in last.offered]
    if any(one.parent != story.state.head for one in passages) or not _drafts(passages):
        return None
    for job, shown in known.items():
        if {card["passage"] for card in shown.cards} >= set(last.offered):
            return {"job": job, "rows": list(shown.cards), "order": list(shown.order)}
    cards = [
        {
            "label": f"draft {number}", "seed": one.seed, "text": one.text, "state": "done",
            "passage": one.id,
        }
        for number, one in enumerate(passages, 1)
    ]  # fmt: skip
    job = f"offer{len(story.choices)}"
    known[job] = Offered(cards, story.state.head)
    return {"job": job, "rows": cards, "order": list(range(len(cards)))}


def _drafts(passages: Sequence[Passage]) -> bool:
    """Whether passages are drafts of one model with the same settings, and no comparison."""
    return all(one.by == "model" and one.setup == passages[0].setup for one in passages)


class Taste:
    """What the choices of the open story teach about drafts."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="taste")
        self._lock = threading.Lock()
        self._learnt: tuple[tuple[int, int], Future[Ranker | None]] | None = None

    def learn(self, story: Story) -> Future[Ranker | None]:
        """Begin to learn from a story, unless that was done since its last choice.

        Args:
            story: A copy of the story.
        """
        # The first passages tell stories apart: ids of a story that was closed are used again.
        key = hash(tuple(passage.text for passage in story.passages[:3])), len(story.choices)
        with self._lock:
            if self._learnt is None or self._learnt[0] != key:
                self._learnt = key, self._pool.submit(_learn, story)
            return self._learnt[1]

    def order(
        self, learnt: Future[Ranker | None], texts: Sequence[str]
    ) -> tuple[list[int], str, bool]:
        """The order of drafts.

        Args:
            learnt: From :meth:`learn`.
            texts: The drafts.

        Returns:
            Indices, best first; what was learnt, in a sentence; whether the order is by taste.
        """
        as_they_are = list(range(len(texts)))
        try:
            ranker = learnt.result(_WAIT)
        except TimeoutError:
            return as_they_are, "", False
        if ranker is None:
            return as_they_are, "", False
        return ranker.order(texts), ranker.sentence, ranker.trial.beyond_chance


def _learn(story: Story) -> Ranker | None:
    """A ranker of the story's own choices; None where there is none to learn from."""
    from ..story.decisions import Decisions, decisions
    from ..taste.ranker import learn, usable

    found = Decisions()
    found.add(decisions(story))
    found.drop_contradicting()
    if not usable(found.used):
        return None
    try:
        return learn(found.used)
    except UserError:
        return None
