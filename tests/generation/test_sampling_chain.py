"""The chain applies what the settings name, in their order, and its trace tells what each did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from creativewritinggpt.config.fields import setting
from creativewritinggpt.generation.engine import write
from creativewritinggpt.generation.sampling import samplers
from creativewritinggpt.generation.sampling import settings as settings_module
from creativewritinggpt.generation.sampling.samplers import SAMPLERS, Chain, by_value
from creativewritinggpt.generation.sampling.settings import SAMPLER_ORDER, GenerationSettings
from creativewritinggpt.generation.text import encode, vocabulary


@dataclasses.dataclass
class FakeRow:
    history: Sequence[int] = ()
    allowed: set[int] | None = None
    barred: set[int] = dataclasses.field(default_factory=set)
    uniform: torch.Tensor = dataclasses.field(
        default_factory=lambda: torch.tensor([0.3, 0.6], dtype=torch.float64)
    )


OFF = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0}


@pytest.fixture
def chain(tiny_tokenizer: Any) -> Any:
    def make(**changes: Any) -> Chain:
        settings = GenerationSettings(**{**OFF, **changes})
        return Chain(settings, vocabulary(tiny_tokenizer), {0})

    return make


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 384, generator=torch.Generator().manual_seed(1)) * 3


def test_with_everything_off_the_logits_stay(chain: Any, logits: torch.Tensor) -> None:
    assert chain().apply(logits, [FakeRow(), FakeRow()]) is logits


def test_the_order_is_the_settings(chain: Any, logits: torch.Tensor) -> None:
    rows = [FakeRow(), FakeRow()]
    usual = chain(temperature=2.0, min_p=0.2).apply(logits, rows)
    assert torch.equal(usual, samplers.min_p(samplers.temperature(logits, 2.0), 0.2))
    last = chain(temperature=2.0, min_p=0.2, samplers=["min_p", "temperature"]).apply(logits, rows)
    assert torch.equal(last, samplers.temperature(samplers.min_p(logits, 0.2), 2.0))
    assert not torch.equal(usual, last)
    only = chain(temperature=2.0, min_p=0.2, samplers=["min_p"]).apply(logits, rows)
    assert torch.equal(only, samplers.min_p(logits, 0.2))


def test_temperature_0_takes_the_likeliest_whatever_is_cut(
    chain: Any, logits: torch.Tensor
) -> None:
    greedy = chain(temperature=0.0, typical_p=0.1, top_k=3)
    rows = [FakeRow(), FakeRow()]
    tokens, _ = greedy.choose(greedy.apply(logits, rows), rows)
    assert tokens.tolist() == logits.argmax(-1).tolist()


def test_rows_have_their_own_history_and_bars(chain: Any, logits: torch.Tensor) -> None:
    best = [int(token) for token in logits.argmax(-1)]
    rows = [FakeRow(history=[best[0]]), FakeRow(barred={best[1]})]
    changed = chain(presence_penalty=2.0).apply(logits, rows)
    assert float(changed[0, best[0]]) == pytest.approx(float(logits[0, best[0]]) - 2)
    assert float(changed[1, best[1]]) == float("-inf")
    changed[0, best[0]], changed[1, best[1]] = logits[0, best[0]], logits[1, best[1]]
    assert torch.equal(changed, logits)


def test_bias_is_on_a_words_tokens(chain: Any, logits: torch.Tensor, tiny_tokenizer: Any) -> None:
    changed = chain(logit_bias={" king": 3.0, "z": -100.0}).apply(logits, [FakeRow(), FakeRow()])
    ids = encode(tiny_tokenizer, " king")
    difference = (changed - logits)[0]
    assert all(float(difference[token]) == pytest.approx(3.0) for token in set(ids))
    assert float(difference[encode(tiny_tokenizer, "z")[0]]) == float("-inf")


def test_bias_is_on_a_word_within_a_text_too(chain: Any, tiny_tokenizer: Any) -> None:
    [inside] = encode(tiny_tokenizer, " the")
    logits = torch.zeros(1, 384)
    changed = chain(logit_bias={"the": 2.0}).apply(logits, [FakeRow()])
    expected = {inside, *encode(tiny_tokenizer, "the")}
    assert set(changed[0].nonzero().squeeze(-1).tolist()) == expected
    changed = chain(logit_bias={" the": 2.0}).apply(logits, [FakeRow()])
    assert changed[0].nonzero().squeeze(-1).tolist() == [inside]


def test_xtc_follows_the_dice(chain: Any) -> None:
    logits = torch.full((2, 384), -20.0)
    logits[:, 5:8] = torch.tensor([3.0, 2.5, 2.0])
    low, high = torch.tensor([0.1, 0.5]).double(), torch.tensor([0.9, 0.5]).double()
    rows = [FakeRow(uniform=low), FakeRow(uniform=high)]
    changed = chain(xtc_probability=0.5, xtc_threshold=0.1).apply(logits, rows)
    assert torch.isfinite(changed[:, 5:8]).tolist() == [[False, False, True], [True, True, True]]


def test_the_record_tells_what_each_sampler_removed(tiny_writer: Any) -> None:
    writer = tiny_writer("gpt2")
    settings = GenerationSettings(
        **{**OFF, "temperature": 0.8}, max_new_tokens=5, seed=1, top_k=20, min_p=0.3,
        min_new_tokens=5,
    )  # fmt: skip
    [text] = write(writer, "The lamp", settings, alternatives=4)
    for token in text.tokens:
        assert token.before is not None and token.after is not None and token.removed is not None
        assert len(token.before) == 4 and 1 <= len(token.after) <= 4
        probabilities = [a.probability for a in token.before]
        assert probabilities == sorted(probabilities, reverse=True)
        assert token.removed["top_k"].tokens in (363, 364)  # the end of text was barred before
        assert token.removed["barred"].tokens == 1
        assert token.removed["barred"].likeliest[0].text == "<|endoftext|>"
        left = 384 - sum(removal.tokens for removal in token.removed.values())
        assert left >= len(token.after) and (left > 4 or left == len(token.after))
        kept = 1 - sum(removal.probability for removal in token.removed.values())
        raw = float(torch.tensor(token.logprob).exp())
        assert token.probability <= 1 and kept >= raw - 1e-4
        if token.rank <= 4:
            chosen = token.before[token.rank - 1]
            assert chosen.id == token.id
            assert chosen.probability == pytest.approx(raw, rel=1e-4)
    record = text.to_dict()
    assert record["tokens"][0]["removed"]["top_k"]["tokens"] > 0
    import json

    assert json.loads(json.dumps(record))["settings"]["top_k"] == 20


def test_every_sampler_that_can_be_named_is_registered() -> None:
    assert set(SAMPLERS) == set(SAMPLER_ORDER)


def test_a_new_sampler_is_a_function_a_setting_and_an_entry(
    tiny_writer: Any, monkeypatch: Any
) -> None:
    """As docs/generation.md tells; top-a keeps what has a times the likeliest's square."""

    def top_a(logits: torch.Tensor, a: float) -> torch.Tensor:
        probabilities = torch.softmax(logits, -1)
        least = a * probabilities.amax(-1, keepdim=True) ** 2
        return logits.masked_fill(probabilities < least, float("-inf"))

    @dataclasses.dataclass(frozen=True)
    class Settings(GenerationSettings):
        top_a: float = setting(0.0, "Top-a sampling; 0 keeps all.", low=0, high=1)

    monkeypatch.setattr(settings_module, "SAMPLER_ORDER", (*SAMPLER_ORDER, "top_a"))
    monkeypatch.setitem(SAMPLERS, "top_a", by_value(top_a, "top_a", 0))

    sharp = {**OFF, "temperature": 0.2}
    chosen = Settings(**sharp, max_new_tokens=4, min_new_tokens=4, seed=1)
    chosen = chosen.changed({"top_a": "0.5"})
    [text] = write(tiny_writer("gpt2"), "The lamp", chosen, alternatives=3)
    assert all(token.probability > 0 for token in text.tokens)
    assert any("top_a" in (token.removed or {}) for token in text.tokens)
    assert text.to_dict()["settings"]["top_a"] == 0.5
    assert [name for name, _ in Chain(Settings(**OFF), None, {0}).stages][2:] == []  # type: ignore[arg-type]
