"""Texts beside the story: drafts and comparisons as cards, and passages that are made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..generation.results import Generated, Piece
from ..generation.sampling.settings import GenerationSettings
from ..story import choices
from ..story.context import StoryView, complete
from ..story.tree import NOTHING, Passage, Setup
from .changes import known
from .edits import SOURCE
from .engine import BASE, Adapters
from .writing import ALTERNATIVES, Row, Writing, made_by

if TYPE_CHECKING:
    from ..models.loaded_model import LoadedModel
    from .story_desk import Desk

MOST_DRAFTS = 16


class Form(NamedTuple):
    """A model in a form that writes: one side of a comparison.

    Attributes:
        label: What the page calls it.
        model: Its name; None for the one that writes.
        adapters: Its adapters; None for those that are on.
        preset: Name of its preset; None for the settings as they are.
        settings: Its settings.
    """

    label: str
    model: str | None
    adapters: Adapters | None
    preset: str | None
    settings: GenerationSettings


class Cards(Writing):
    """Texts beside the story: drafts, or two models with the same seed.

    Args:
        desk: The desk.
        type: ``drafts`` or ``compare``.
        forms: The form of the model that writes each text.
        seeds: The seed of each.
    """

    def __init__(self, desk: Desk, type: str, forms: Sequence[Form], seeds: Sequence[int]) -> None:
        self.cards: list[dict[str, Any]] = [
            {"label": form.label, "seed": seed, "text": "", "state": "queued", "passage": None}
            for form, seed in zip(forms, seeds, strict=True)
        ]
        head = desk.story.state.head
        super().__init__(desk, type, head, len(forms), cards=self.cards)
        self._forms, self._seeds = forms, seeds
        self._left = len(forms)
        self._error: Exception | None = None
        self._setups: list[Setup | None] = [None] * len(forms)
        self._served: list[str] = [""] * len(forms)
        self._views: dict[int, StoryView] = {}
        self.order: Sequence[int] = range(len(forms))
        best_first = type == "drafts" and desk.studio.settings.best_first
        self._learnt = desk.taste.learn(desk.snapshot()) if best_first else None
        desk.writing = self

    def start(self) -> None:
        """Let the models write."""
        self.begin(self._start)

    def _start(self, model: LoadedModel) -> list[Callable[[], None]]:
        from ..generation.decoder import Request

        engine, stops = self.desk.studio.engine, []
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, form in enumerate(self._forms):
            key = form.model, str(form.adapters), form.preset, str(form.settings.to_dict())
            groups.setdefault(key, []).append(index)
        plans = []
        for places in groups.values():
            form = self._forms[places[0]]
            loaded = engine.loaded(form.model) if form.model is not None else None
            view = self.desk.view_at(self.parent, loaded.model if loaded else None)
            served = engine.served(form.adapters, loaded)
            for place in places:
                self._served[place], self._views[place] = served, view
                self._setups[place] = None
            requests = [
                Request(view.prompt, self._seeds[place], view.memory, view.note) for place in places
            ]
            plans.append((places, requests, form, served))
        for places, requests, form, served in plans:
            stops.append(
                engine.write(
                    requests, form.settings, self._piece_of(places), self._end_of(places),
                    served=served, alternatives=ALTERNATIVES,
                )
            )  # fmt: skip
        return stops

    def _piece_of(self, places: Sequence[int]) -> Callable[[Piece], None]:
        def on_piece(piece: Piece) -> None:
            row = self.rows[places[piece.index]]
            with self.desk.lock:
                if self.kept.is_set():
                    return
                row.take(piece)
                self.tell(row, last=piece.result is not None)
                if piece.result is not None:
                    row.result = piece.result
                    self._ended(row)

        return on_piece

    def _end_of(self, places: Sequence[int]) -> Callable[..., None]:
        def on_end(results: list[Generated], error: Exception | None) -> None:
            if error is not None and not self.stopped:
                self._error = error
            with self.desk.lock:
                for place in places:
                    self._ended(self.rows[place])
                self._left -= len(places)
                over = self._left == 0
            if over:
                self.finish(self._error)

        return on_end

    def _ended(self, row: Row) -> None:
        """Put a card into the tree, beside the branch."""
        card, form = self.cards[row.index], self._forms[row.index]
        if card["state"] in ("done", "stopped"):
            return
        text = complete(row.result.text if row.result is not None else row.text)
        card["text"] = text
        card["state"] = "stopped" if self.stopped else "done"
        if text:
            self.desk.end_typing()
            view = self._views[row.index]
            setup = made_by(
                self.desk, self._served[row.index], form.preset, self._adapters(form),
                form.settings, view, form.model,
            )  # fmt: skip
            passage = self.desk.story.offer(
                text, self.parent, by="model", setup=setup, seed=card["seed"], start=view.start
            )
            card["passage"] = passage.id
            self.desk.tokens[passage.id] = row.result.tokens if row.result else row.tokens
            self.desk.keeper.touch()
        self.desk.studio.jobs.tell(self.job, rows=list(self.cards))

    def _adapters(self, form: Form) -> dict[str, float]:
        if form.adapters is None:
            if form.model is None:
                return self.desk.studio.engine.adapters
            return dict(self.desk.studio.engine.loaded(form.model).adapters)
        return {} if isinstance(form.adapters, str) else dict(form.adapters)

    def keep(self) -> None:
        """Note that the cards were shown."""
        for row in self.rows:
            if row.result is None and self._views:
                self._ended(row)
        if self._learnt is not None:
            taste = self.desk.taste
            order, learnt, sure = taste.order(self._learnt, [card["text"] for card in self.cards])
            if sure:
                self.order = order
            told = list(self.order) if sure else []
            self.desk.studio.jobs.tell(self.job, order=told, learnt=learnt)
        cards = [self.cards[place] for place in self.order]
        shown = [card["passage"] for card in cards if card["passage"] is not None]
        choices.offer(self.desk.story, shown, SOURCE)
        self.desk.outline_changed()


class Proof(Writing):
    """A passage that is made again from its record, to be compared.

    Args:
        desk: The desk.
        passage: The passage, as the model wrote it.
    """

    def __init__(self, desk: Desk, passage: Passage) -> None:
        self._passage = passage
        super().__init__(desk, "verify", passage.parent, 1)
        self._sentence, self._equal = "", False
        desk.writing = self

    def start(self) -> None:
        """Let the model write it again."""
        self.begin(self._start)

    def _start(self, model: LoadedModel) -> list[Callable[[], None]]:
        from ..generation.decoder import Request

        passage, engine = self._passage, self.desk.studio.engine
        setup, seed = passage.setup, passage.seed
        assert setup is not None and seed is not None
        if setup.model != model.name:
            raise InputError(
                f"this passage was made with {setup.model}, and {model.name} is loaded",
                f"choose {setup.model} as the model to prove it",
            )
        story = self.desk.snapshot()
        text = story.text_at(passage.parent)
        values = {**setup.settings, "best_of": None}
        settings = GenerationSettings().changed(values, "the record of the passage")
        adapters: Adapters = dict(setup.adapters)
        if not adapters and model.has_adapter:
            adapters = BASE
        request = Request(text[passage.start :], seed, setup.memory, setup.note)
        stop = engine.write(
            [request], settings, self._on_piece, self._on_end,
            served=engine.served(adapters, weights=str(values.get("weights", "auto"))),
        )  # fmt: skip
        return [stop]

    def _on_piece(self, piece: Piece) -> None:
        row = self.rows[0]
        row.take(piece)
        if len(row.text) >= len(self._passage.text) and piece.result is None:
            for stop in list(self._stops):  # the rest was stopped, or cut, then as well
                stop()

    def _on_end(self, results: list[Generated], error: Exception | None) -> None:
        made, wanted = self.rows[0].text, self._passage.text
        if error is None and not (self.stopped and len(made) < len(wanted)):
            self._equal = made[: len(wanted)] == wanted
            same = 0
            while same < min(len(made), len(wanted)) and made[same] == wanted[same]:
                same += 1
            self._sentence = (
                "made again from its record, and every character is the same"
                if self._equal
                else f"made again from its record, and it differs after {same} of {len(wanted)} "
                "characters: the model's files, or the program, are not those of that day"
            )
        self.finish(None if error is not None and self.stopped else error)

    def keep(self) -> None:
        """Say what was found; nothing is kept."""
        if self._sentence:
            rows = [{"equal": self._equal, "text": self.rows[0].text[: len(self._passage.text)]}]
            self.desk.studio.jobs.tell(self.job, message=self._sentence, rows=rows)


def passage_at(desk: Desk, value: Any) -> Passage:
    """The passage of an id; the last one of the branch without.

    Raises:
        InputError: There is none, or it is not on the branch.
    """
    story = desk.story
    place = known(desk, value)
    if place is None:
        place = story.state.head
    if place == NOTHING:
        raise InputError("the story is empty", "type a beginning")
    return story.passages[place]
