"""Figures of a story: equal to the record and to the terminal's, kept, in the right order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from writers import make_writer

from creativewritinggpt.errors import InputError
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.forced import ForcedReader
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.generation.text import encode
from creativewritinggpt.story.context import passage_tokens, story_view
from creativewritinggpt.story.tree import Setup, Story
from creativewritinggpt.studio.figures import Figures, Scene, token_at

SENTENCE = "The lamp went out, and the captain laughed at the sea. "
SETTINGS = GenerationSettings(
    max_new_tokens=12, min_new_tokens=12, seed=5, temperature=0.8, top_k=20, top_p=0.9, min_p=0.02
)


@pytest.fixture
def writer(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    return make_writer(tiny_model("gpt2"), tiny_tokenizer)


def drained(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class Told:
    """A story of the author and the model, with the record of what the model wrote."""

    def __init__(self, writer: Any, passages: int = 3) -> None:
        self.writer, self.story = writer, Story()
        self.tokens: dict[int, Any] = {}
        for _ in range(passages):
            self.story.write(SENTENCE)
            seen = story_view(writer, self.story)
            made = write(writer, seen.prompt, SETTINGS, alternatives=6)[0]
            setup = Setup(writer.name, settings=SETTINGS.to_dict())
            passage = self.story.write(
                made.text, by="model", setup=setup, seed=made.seed, start=seen.start
            )
            self.tokens[passage.id] = made.tokens

    def scene(self, tokens: Any = None) -> Scene:
        return Scene.of(self.story, self.tokens if tokens is None else tokens, SETTINGS)

    def heat(self, scene: Scene, visible: Any = None, **more: Any) -> list[Any]:
        shown: list[Any] = []
        figures = more.pop("figures", None) or Figures()
        steps = figures.heat(
            self.writer, scene, visible or (0, len(self.story.text)),
            lambda place, rows: shown.append((place, rows)), **more,
        )  # fmt: skip
        assert drained(steps) == sum(len(rows) for _, rows in shown)
        return shown


def test_figures_are_the_record_and_those_of_the_terminal(writer: Any) -> None:
    told = Told(writer)
    shown = {place.passage.id: rows for place, rows in told.heat(told.scene())}
    assert len(shown) == 6
    for passage in told.story.path():
        rows = shown[passage.id]
        tokens = told.tokens.get(passage.id) or passage_tokens(writer, told.story, passage, 2)
        assert [row.rank for row in rows] == [token.rank for token in tokens]
        for row, token in zip(rows, tokens, strict=True):
            assert row.logprob == pytest.approx(token.logprob, abs=1e-4)
            assert row.entropy == pytest.approx(token.entropy, abs=1e-4)
        # The tokens cover the passage without gaps.
        assert rows[0].start == 0 and rows[-1].end == len(passage.text)
        assert all(b.start <= a.end <= b.end for a, b in itertools.pairwise(rows))


def test_without_the_record_the_same_figures_are_read(writer: Any) -> None:
    told = Told(writer)
    with_record = told.heat(told.scene(), base=True)
    for place, rows in with_record:
        for row in rows:
            # No adapter: the base model is the model, in the same views.
            assert row.base == pytest.approx(row.logprob, abs=1e-3), place.passage.by


def test_what_is_visible_comes_first_and_the_rest_after_it(writer: Any) -> None:
    story = Story()
    long = SENTENCE * 60
    story.write(long)
    told = Told(writer, 0)
    told.story = story
    visible = (2000, 2100)
    shown = told.heat(told.scene(), visible)
    first = shown[0][1]
    assert first[0].start < 2100 and first[-1].end > 2000
    everything = sorted(row for _, rows in shown for row in rows)
    assert everything[0].start == 0 and everything[-1].end == len(long)
    assert len({row.start for row in everything}) == len(everything)
    only = told.heat(told.scene(), visible, rest=False)
    assert sum(len(rows) for _, rows in only) < len(everything) // 3


def test_only_what_an_edit_made_is_read_again(writer: Any, monkeypatch: Any) -> None:
    told, figures = Told(writer), Figures()
    read: list[int] = []
    tokens = ForcedReader.tokens

    def counted(self: Any, view: Any, ids: Any, **more: Any) -> Any:
        read.append(len(ids))
        return tokens(self, view, ids, **more)

    monkeypatch.setattr(ForcedReader, "tokens", counted)
    first = told.heat(told.scene(), figures=figures)
    assert read
    read.clear()
    assert told.heat(told.scene(), figures=figures) == first and not read
    # The last own passage is changed: what stands before it is as it was.
    text, at = told.story.text, told.story.text.rindex("laughed")
    told.story.edit(text[:at] + "smiled" + text[at + 7 :])
    again = told.heat(told.scene(), figures=figures)
    path = [passage.id for passage in told.story.path()]
    assert sum(read) < sum(len(rows) for place, rows in again if place.passage.id in path[3:]) + 1
    read.clear()
    told.story.set("memory", memory="The sea is calm.")
    told.heat(told.scene(), figures=figures)
    assert read, "memory is part of the view of own words"


def test_the_oldest_figures_are_forgotten(writer: Any) -> None:
    told, figures = Told(writer), Figures(most=20)
    assert told.heat(told.scene(), figures=figures) == told.heat(told.scene())


def _token(told: Told, at: int, tokens: Any = None) -> Any:
    return drained(token_at(told.writer, told.scene(tokens), at))


def test_a_token_of_the_model_is_told_from_its_record(writer: Any) -> None:
    told = Told(writer)
    passage = told.story.path()[3]
    start = sum(len(one.text) for one in told.story.path()[:3])
    found, span = _token(told, start + 4)
    record = told.tokens[passage.id]
    [token] = [one for one in record if one.logprob == found["logprob"]]
    assert span[0] <= start + 4 < span[1]
    assert found["drawn"] == token.probability and found["recorded"]
    assert [one["id"] for one in found["before"]] == [one.id for one in token.before]
    assert [one["probability"] for one in found["after"]] == [o.probability for o in token.after]
    removed = {one["sampler"]: (one["count"], one["mass"]) for one in found["removed"]}
    assert removed == {name: (r.tokens, r.probability) for name, r in token.removed.items()}
    assert {"top_k", "barred"} <= set(removed)


def test_without_its_alternatives_a_token_is_told_the_same(writer: Any) -> None:
    """As it was written: in its view, with its settings, in the state of its random numbers."""
    told = Told(writer)
    bare = {
        number: [replace(one, before=None, after=None, removed=None) for one in tokens]
        for number, tokens in told.tokens.items()
    }
    start = 0
    for passage in told.story.path():
        for at in range(start, start + len(passage.text), 5) if passage.id in bare else ():
            (known, span), (read, other) = _token(told, at), _token(told, at, bare)
            assert span == other and read["rank"] == known["rank"]
            assert read["settings"] == known["settings"] == "as it was written"
            for name in ("logprob", "entropy", "drawn"):
                assert read[name] == pytest.approx(known[name], abs=1e-3)
            for one, same in zip(read["removed"], known["removed"], strict=True):
                assert (one["sampler"], one["count"]) == (same["sampler"], same["count"])
        start += len(passage.text)


def test_an_own_word_has_alternatives_after_the_samplers_of_now(writer: Any) -> None:
    told = Told(writer)
    found, (start, end) = _token(told, told.story.text.index("captain") + 2)
    assert told.story.text[start:end] in told.story.text
    assert found["by"] == "writer" and found["settings"] == "as the settings are now"
    assert len(found["before"]) == 12 and 0 < len(found["after"]) <= 12
    assert {one["sampler"] for one in found["removed"]} >= {"top_k"}
    [passage, *_] = told.story.path()
    tokens = passage_tokens(writer, told.story, passage, 6)
    [same] = [one for one in tokens if abs(one.logprob - found["logprob"]) < 1e-4]
    assert same.rank == found["rank"]


def test_alternatives_that_are_no_text_of_their_own_cannot_be_taken(writer: Any) -> None:
    told = Told(writer)
    for at in range(len(told.story.text)):
        found, _ = _token(told, at)
        for one in [*found["before"], *found["after"]]:
            assert (one["takes"] is None) == ("\ufffd" in one["text"] or one["text"][:2] == "<|")


def test_the_end_of_the_text_is_its_last_token_and_beyond_it_is_none(writer: Any) -> None:
    told = Told(writer)
    size = len(told.story.text)
    assert _token(told, size)[1][1] == size
    with pytest.raises(InputError):
        _token(told, size + 1)
    with pytest.raises(InputError, match="empty"):
        drained(token_at(writer, Scene.of(Story(), {}, SETTINGS), 0))


def test_a_base_models_figures_are_read_without_the_adapter_between_other_work(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    network = tiny_model("gpt2")
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=["c_attn"]))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora" in name:
                value.add_(torch.randn_like(value))
    writer = make_writer(adapted.eval(), tiny_tokenizer)
    writer.has_adapter = True
    told = Told(writer, 1)
    [own, _] = told.story.path()
    steps = Figures().heat(writer, told.scene(), (0, 9999), lambda *_: None, base=True)
    next(steps)
    with torch.no_grad():
        ids = torch.tensor([[0, *encode(tiny_tokenizer, own.text)]])
        between = writer.model(ids).logits
        with writer.base():
            base = writer.model(ids).logits
    assert not torch.allclose(between, base)
    shown = told.heat(told.scene(), base=True)
    [rows] = [rows for place, rows in shown if place.passage.id == own.id]
    for index, row in enumerate(rows):
        token = ids[0, index + 1]
        assert row.logprob == pytest.approx(
            float(between[0, index].log_softmax(-1)[token]), abs=1e-4
        )
        assert row.base == pytest.approx(float(base[0, index].log_softmax(-1)[token]), abs=1e-4)
