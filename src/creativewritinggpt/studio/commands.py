"""The commands of the writing room that ask the model for text, and what is taken of it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from ..generation.sampling.settings import SEEDS, seeds_from, with_preset
from ..story import choices
from ..story.tree import Passage, State, Story
from .cards import MOST_DRAFTS, Cards, Form, Proof, passage_at
from .changes import cut
from .edits import SOURCE, checked
from .engine import BASE, Adapters
from .story_desk import Desk
from .writing import InText, Writing


def go_on(
    desk: Desk, tab: str | None, at: int | None = None, tokens: Any = None, seed: Any = None
) -> Writing:
    """Let the model go on, at the end or, on a new branch, at a place in the text.

    Args:
        desk: The desk.
        tab: The tab.
        at: The place, in UTF-16 code units.
        tokens: Number of tokens at most; by default that of the settings.
        seed: The seed; by default that of the settings, or a new one.
    """
    settings = desk.settings
    if tokens is not None:
        if type(tokens) is not int:
            raise InputError("tokens must be a whole number")
        settings = settings.changed(
            {"max_new_tokens": tokens, "min_new_tokens": min(settings.min_new_tokens, tokens)}
        )
    chosen = _seed(desk, seed)
    with desk.command(tab) as story:
        before = story.history, story.cursor
        place = len(desk.text) if at is None else desk.index(at)
        if place < len(desk.text):
            story.branch(at=cut(story, place))
            desk.tell(tab or "")
        writing = InText(
            desk, "continue", story.state.head, "a passage by the model", before, settings, chosen
        )
    writing.start()
    return writing


def version(desk: Desk, tab: str | None, passage: Any = None, seed: Any = None) -> Writing:
    """Let the model write another version of a passage of its own; the earlier one stays.

    In mid-story it begins a branch.
    """
    with desk.command(tab) as story:
        old = passage_at(desk, passage)
        if old.by != "model":
            raise InputError(
                "that passage is not the model's", "choose one of the model, or Continue"
            )
        chosen = _seed(desk, seed, [one for one in story.children(old.parent) if one.seed])
        before = story.history, story.cursor
        if story.state.head == old.id:
            story.go(old.parent, "retry")
        else:
            story.branch(at=old.parent)
        desk.tell(tab or "")
        writing = InText(
            desk, "version", old.parent, "retry", before, desk.settings, chosen, instead=old.id
        )
    writing.start()
    return writing


def drafts(desk: Desk, tab: str | None, count: Any = 3, seed: Any = None) -> Writing:
    """Let the model go on in several ways, as cards."""
    if type(count) is not int or not 2 <= count <= MOST_DRAFTS:
        raise InputError(f"there can be 2 to {MOST_DRAFTS} drafts, not {count!r}")
    seeds = seeds_from(_seed(desk, seed), count)
    settings = dataclasses.replace(desk.settings, best_of=None)
    form = Form("", None, None, None, settings)
    forms = [form._replace(label=f"draft {number}") for number in range(1, count + 1)]
    return _cards(desk, tab, "drafts", forms, seeds)


def compare(
    desk: Desk, tab: str | None, one: Any = None, other: Any = None, seed: Any = None
) -> Writing:
    """Let two forms of a model, or two models, go on with the same seed, as cards.

    Args:
        desk: The desk.
        tab: The tab.
        one: ``model``, ``preset``, ``style`` or ``adapters``; the base by default.
        other: The same of the other one; the model as it writes now by default.
        seed: The seed of both.
    """
    if one is None and other is None and not desk.studio.engine.adapters:
        raise InputError(
            f"{desk.studio.engine.name} has no adapter, so there is nothing to compare it with",
            "choose two models or presets",
        )
    given = [{"adapters": False} if one is None else one, {} if other is None else other]
    forms = [_form(desk, one) for one in given]
    seeds = [_seed(desk, seed)] * 2
    return _cards(desk, tab, "compare", forms, seeds)


def _cards(
    desk: Desk, tab: str | None, kind: str, forms: Sequence[Form], seeds: Sequence[int]
) -> Writing:
    with desk.command(tab):
        cards = Cards(desk, kind, forms, seeds)
        desk.cards[cards.job.id] = cards
    cards.start()
    return cards


def take(desk: Desk, tab: str | None, job: Any, row: Any) -> int:
    """Take one of the cards; the others stay set aside. The id of its passage.

    Where the story has gone on since, that stays on its branch, and a new one begins.
    """
    cards = desk.cards.get(job) if isinstance(job, str) else None
    if cards is None:
        raise InputError("these texts are no longer at hand", "the tree of branches has them")
    with desk.command(tab) as story:
        ordered = [cards.cards[place] for place in cards.order]
        shown = [card["passage"] for card in ordered if card["passage"] is not None]
        if type(row) is not int or not 0 <= row < len(cards.cards):
            raise InputError("there is no such card")
        chosen = cards.cards[row]["passage"]
        if chosen is None:
            raise InputError("nothing was written there")
        head = story.state.head
        with _Step(story, "pick"):
            if head != cards.parent and head not in shown:
                story.branch(at=cards.parent)
            choices.pick(story, shown, chosen, SOURCE)
        desk.tell(tab or "")
    if desk.studio.settings.best_first:
        desk.taste.learn(desk.snapshot())
    return int(chosen)


def replace(desk: Desk, tab: str | None, start: Any, end: Any, text: Any) -> str:
    """Put an alternative in the place of a token, on a new branch that ends with it; its name."""
    if not isinstance(text, str) or not text or "\ufffd" in text or text.startswith("<|"):
        raise InputError("that alternative is no text of its own", "choose another one")
    checked(text)
    with desk.command(tab) as story:
        first, last = desk.index(_whole(start)), desk.index(_whole(end))
        if not first < last:
            raise InputError("there is no token at this place")
        before = desk.text[first:last]
        original = _passage_of(story, first)
        with _Step(story, "pick"):
            name = story.branch(at=cut(story, first))
            story.write(text, did="pick")
        choices.token(story, original.id, before, SOURCE)
        desk.tell(tab or "")
    return name


def verify(desk: Desk, tab: str | None, passage: Any = None) -> Writing:
    """Make a passage of the model again from its record, and say whether it is the same."""
    with desk.command(tab) as story:
        found = passage_at(desk, passage)
        if found.copy_of is not None:
            found = story.passages[found.copy_of]
        if found.by != "model" or found.setup is None or found.seed is None:
            raise InputError(
                "there is no record of how this passage was made",
                "passages that the model wrote in this program have one",
            )
        proof = Proof(desk, found)
    proof.start()
    return proof


class _Step:
    """Several operations as one step to undo."""

    def __init__(self, story: Story, did: str) -> None:
        self._story, self._did = story, did
        self._before: tuple[list[State], int] = story.history, story.cursor

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        story, (history, cursor) = self._story, self._before
        if kind is not None:
            story.history, story.cursor = history, cursor
            return
        state = dataclasses.replace(story.state, did=self._did)
        story.history, story.cursor = [*history[: cursor + 1], state], cursor + 1


def _passage_of(story: Story, place: int) -> Passage:
    for passage in story.path():
        if place < len(passage.text):
            return passage
        place -= len(passage.text)
    raise InputError("there is no token at this place")


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise InputError("a place in the text is a number")
    return value


def _seed(desk: Desk, given: Any, versions: Sequence[Passage] = ()) -> int:
    """The seed that was given, that of the settings, or a new one that is short enough to type."""
    if given is not None:
        if type(given) is not int or not 0 <= given < SEEDS:
            raise InputError(f"a seed is a whole number from 0 to {SEEDS - 1}")
        return given
    seed = desk.settings.seed
    if seed is None:
        return secrets.randbelow(1_000_000)
    used = {one.seed for one in versions}  # the same seed would give the same text
    while seed in used:
        seed = seeds_from(seed, 2)[1]
    return seed


def _form(desk: Desk, given: Any) -> Form:
    if not isinstance(given, Mapping):
        raise InputError("a side of the comparison is an object")
    studio = desk.studio
    labels: list[str] = []
    model: str | None = None
    adapters: Adapters | None = None
    settings, name = desk.settings, None
    if given.get("model"):
        model = studio.model_name(str(given["model"]))
        labels.append(str(given["model"]) if model == studio.engine.name else model)
    if given.get("preset"):
        name = str(given["preset"])
        settings = with_preset(settings, name)
        labels.append(f"preset {name}")
    if given.get("adapters") is False:
        adapters = BASE
        labels.append("base")
    elif given.get("style") is not None:
        style = given["style"]
        if type(style) not in (int, float) or not 0 <= style <= 1.5:
            raise InputError(f"the style is {style!r}", "give a number from 0 to 1.5")
        own = studio.engine.adapters if model is None else {}
        if not own:
            raise InputError("only a model with an adapter that is loaded has a style")
        adapters = dict.fromkeys(own, float(style))
        labels.append(f"style {style:g}")
    settings = dataclasses.replace(settings, best_of=None)
    usual = "tuned" if studio.engine.adapters else "as it is"
    return Form(", ".join(labels) or usual, model, adapters, name, settings)
