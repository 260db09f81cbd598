"""Random replacement: the fast path is the plain one, and the numbers are what they are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.divergences import plain_divergences
from writers import make_writer

from creativewritinggpt.analysis import prefix_cache
from creativewritinggpt.analysis.methods.perturbation import (
    DISTRIBUTIONS,
    draw_replacements,
    perturb,
    unigrams,
)
from creativewritinggpt.analysis.prefix_cache import Predictions, PrefixCache
from creativewritinggpt.analysis.subject import Subject, Target
from creativewritinggpt.errors import InputError
from creativewritinggpt.models.scoring import body_and_head

FAMILIES = ("gpt2", "llama", "qwen")


def a_subject(length: int = 9, targets: tuple[Target, ...] = (), seed: int = 0) -> Subject:
    ids = np.random.default_rng(seed).integers(1, 384, length - 1).tolist()
    spans = ((0, 0), *((i, i + 1) for i in range(length - 1)))
    return Subject("x" * length, (0, *ids), spans, targets or (Target(length, 7),), length)


def with_adapter(writer: Any) -> Any:
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach

    attach(writer, Config())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in writer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    writer.model.eval()
    return writer


def a_writer(tiny_model: Any, tiny_tokenizer: Any, family: str = "gpt2", **more: Any) -> Any:
    """A writer whose models are not shared with other tests."""
    return make_writer(tiny_model(family), tiny_tokenizer, **more)


@pytest.mark.invariant
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "adapter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fast_path_equals_two_whole_passes(
    family: str, adapter: bool, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer, family)
    if adapter:
        with_adapter(writer)
    targets = (Target(5, 11), Target(9, 7), Target(9, 3, foil=200))
    subject = a_subject(targets=targets)
    found = perturb(writer, subject, distribution="uniform", samples=4, positions="all")
    drawn = draw_replacements("uniform", writer, subject.ids, range(1, 9), samples=4, seed=0)
    assert found.influence is not None
    for position in range(1, 9):
        plain = []
        for token in drawn[position - 1].tolist():
            variant = [*subject.ids[:position], token, *subject.ids[position + 1 :]]
            plain.append(plain_divergences(writer, subject.ids, variant))
        kl = np.array([one["kl"] for one in plain])
        np.testing.assert_allclose(found.influence[position], kl.mean(0), atol=1e-5)
        for row, target in enumerate(targets):
            at = target.position - 1
            if position > at:
                continue
            change = [one["original"][at] - one["variant"][at] for one in plain]
            expected = [
                one[target.id] - (0 if target.foil is None else one[target.foil]) for one in change
            ]
            assert found.kl[row, position] == pytest.approx(kl[:, at].mean(), abs=1e-5)
            assert found.change[row, position] == pytest.approx(np.mean(expected), abs=1e-5)
            error = np.std(expected, ddof=1) / 2
            assert found.change_se[row, position] == pytest.approx(error, abs=1e-5)
            js = np.mean([one["js"][at] for one in plain])
            assert found.js[row, position] == pytest.approx(js, abs=1e-5)
            flips = np.mean([one["flips"][at] for one in plain])
            assert found.flip_rate[row, position] == pytest.approx(flips)


def test_nothing_moves_before_the_replaced_token(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    subject = a_subject(targets=(Target(4, 1), Target(9, 1)))
    found = perturb(writer, subject, samples=3, positions="all")
    assert found.influence is not None
    assert not np.tril(found.influence, -1).any()
    assert (np.diag(found.influence)[1:] > 0).all()
    assert not found.influence[0].any()
    for values in (found.kl, found.change, found.js, found.flip_rate):
        assert not values[0, 4:].any()
        assert values[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_replaced_by_itself_changes_nothing(
    family: str, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = a_subject()
    writer = a_writer(tiny_model, tiny_tokenizer, family)
    cache = PrefixCache(writer, subject.ids, list(range(subject.length)))
    predictions = Predictions(cache)
    # Pretend that every row differs from its second token on, so that all of them are run.
    monkeypatch.setattr(PrefixCache, "beginnings", lambda self, rows: np.full(len(rows), 1))
    parts = list(cache.passes(np.tile(cache.ids, (5, 1))))
    assert sum(len(part.rows) for part in parts) == 5
    for part in parts:
        found = predictions.divergences(part, js=range(subject.length))
        assert np.abs(found.kl).max() < 1e-6
        assert np.abs(found.js).max() < 1e-6
        assert not found.flips.any()
        assert found.noise < 1e-6


@given(
    seed=st.integers(0, 50),
    length=st.integers(2, 12),
    distribution=st.sampled_from(["uniform", "model"]),
)
@settings(deadline=None, max_examples=15)
def test_divergences_are_divergences(
    seed: int, length: int, distribution: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer, "llama")
    found = perturb(
        writer, a_subject(length, seed=seed), distribution=distribution, samples=2, seed=seed
    )
    assert found.kl.min() >= -1e-6
    assert found.js.min() >= -1e-6
    assert found.js.max() <= np.log(2) + 1e-6
    assert ((found.flip_rate >= 0) & (found.flip_rate <= 1)).all()
    assert found.noise_floor < 1e-6


def test_influence_of_a_target_is_its_row_of_the_matrix(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer, "qwen")
    subject = a_subject(targets=(Target(6, 1), Target(9, 2)))
    everywhere = perturb(writer, subject, distribution="uniform", samples=5, positions="all")
    there = perturb(writer, subject, distribution="uniform", samples=5)
    assert there.influence is None
    assert everywhere.influence is not None and everywhere.affected is not None
    np.testing.assert_allclose(everywhere.influence[:, [5, 8]].T, everywhere.kl, atol=1e-12)
    np.testing.assert_allclose(there.kl, everywhere.kl, atol=1e-5)
    np.testing.assert_allclose(there.change, everywhere.change, atol=1e-5)
    for i in range(1, 9):
        mean = everywhere.influence[i, i:].mean()
        assert everywhere.affected[i] == pytest.approx(mean, rel=1e-6)


def test_the_standard_error_shrinks_with_the_square_root_of_the_samples(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer, subject = a_writer(tiny_model, tiny_tokenizer), a_subject(5)
    few = perturb(writer, subject, distribution="uniform", samples=40, seed=1)
    many = perturb(writer, subject, distribution="uniform", samples=640, seed=1)
    ratio = few.kl_se[0, 1:] / many.kl_se[0, 1:]
    assert (np.abs(ratio / 4 - 1) < 0.35).all()
    assert (np.abs(few.kl - many.kl)[0, 1:] < 4 * few.kl_se[0, 1:]).all()


def test_the_same_seed_gives_the_same_numbers(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer, subject = a_writer(tiny_model, tiny_tokenizer), a_subject()
    state = torch.get_rng_state()
    first = perturb(writer, subject, seed=4, samples=3)
    assert torch.equal(torch.get_rng_state(), state)
    second = perturb(writer, subject, seed=4, samples=3)
    assert first.to_dict() == second.to_dict()
    assert np.array_equal(first.change, second.change)
    assert not np.array_equal(first.kl, perturb(writer, subject, seed=5, samples=3).kl)


@pytest.mark.invariant
@pytest.mark.parametrize("tokens", [1, 10, 45, 1024])
def test_the_size_of_a_pass_does_not_matter(
    tokens: int, tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, subject = a_writer(tiny_model, tiny_tokenizer, "llama"), a_subject(11)
    whole = perturb(writer, subject, samples=6, positions="all")
    monkeypatch.setattr(prefix_cache, "TOKENS_ON_A_PROCESSOR", tokens)
    monkeypatch.setattr(prefix_cache, "LOGITS_AT_ONCE", 384 * 3)
    parts = perturb(writer, subject, samples=6, positions="all")
    np.testing.assert_allclose(parts.kl, whole.kl, atol=1e-5)
    np.testing.assert_allclose(parts.change, whole.change, atol=1e-5)
    assert parts.influence is not None
    np.testing.assert_allclose(parts.influence, whole.influence, atol=1e-5)


def test_lack_of_memory_halves_the_passes(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, subject = a_writer(tiny_model, tiny_tokenizer), a_subject()
    whole = perturb(writer, subject, samples=8)
    inner = PrefixCache.branch

    def branch(self: Any, ids: torch.Tensor, begin: int, wanted: torch.Tensor) -> torch.Tensor:
        if len(ids) > 4:
            raise MemoryError
        return inner(self, ids, begin, wanted)

    monkeypatch.setattr(PrefixCache, "branch", branch)
    np.testing.assert_allclose(perturb(writer, subject, samples=8).kl, whole.kl, atol=1e-5)


def test_sliding_windows_are_kept(tiny_model: Any, tiny_tokenizer: Any) -> None:
    changes = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    writer = make_writer(tiny_model("qwen", **changes), tiny_tokenizer)
    subject = a_subject(14)
    found = perturb(writer, subject, distribution="uniform", samples=2, positions="all")
    drawn = draw_replacements("uniform", writer, subject.ids, [3], samples=2, seed=0)[0]
    plain = [
        plain_divergences(writer, subject.ids, [*subject.ids[:3], token, *subject.ids[4:]])["kl"]
        for token in drawn.tolist()
    ]
    assert found.influence is not None
    np.testing.assert_allclose(found.influence[3], np.mean(plain, 0), atol=1e-5)


def test_half_precision_stays_near_and_says_how_near(tiny_model: Any, tiny_tokenizer: Any) -> None:
    subject = a_subject(20)
    exact = perturb(a_writer(tiny_model, tiny_tokenizer, "llama"), subject, distribution="uniform")
    writer = a_writer(tiny_model, tiny_tokenizer, "llama", precision="bf16")
    rough = perturb(writer, subject, distribution="uniform")
    assert rough.settings["precision"] == "bf16"
    moved = np.abs(rough.kl - exact.kl)
    assert 0 < moved.max() < 2 * np.maximum(exact.kl_se, 0.05 * exact.kl.max()).max()
    assert exact.noise_floor < 1e-6 <= rough.noise_floor + 1e-6


def test_the_model_is_left_as_it_was(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = with_adapter(a_writer(tiny_model, tiny_tokenizer))
    before = {name: value.clone() for name, value in writer.model.state_dict().items()}
    asks = {name: p.requires_grad for name, p in writer.model.named_parameters()}
    forwards = [module for module in writer.model.modules() if "forward" in vars(module)]
    perturb(writer, a_subject(), samples=2)
    for name, value in writer.model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, parameter in writer.model.named_parameters():
        assert parameter.requires_grad == asks[name] and parameter.grad is None
    assert [m for m in writer.model.modules() if "forward" in vars(m)] == forwards


def test_the_base_model_gives_other_numbers(tiny_model: Any, tiny_tokenizer: Any) -> None:
    plain = perturb(a_writer(tiny_model, tiny_tokenizer), a_subject(), samples=2)
    writer = with_adapter(a_writer(tiny_model, tiny_tokenizer))
    assert not np.allclose(perturb(writer, a_subject(), samples=2).kl, plain.kl, atol=1e-4)
    with writer.base():
        base = perturb(writer, a_subject(), samples=2)
    np.testing.assert_allclose(base.kl, plain.kl, atol=1e-6)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_one_token_of_text_is_enough(
    distribution: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    found = perturb(writer, a_subject(2), distribution=distribution, samples=3, positions="all")
    assert found.kl.shape == (1, 2) and found.kl[0, 1] > 0


def test_a_target_after_the_start_token_owes_nothing(tiny_model: Any, tiny_tokenizer: Any) -> None:
    found = perturb(a_writer(tiny_model, tiny_tokenizer), a_subject(4, (Target(1, 5),)), samples=2)
    assert not found.kl.any() and not found.change.any()


def test_results_can_be_attributions_and_json(tiny_model: Any, tiny_tokenizer: Any) -> None:
    import json

    found = perturb(a_writer(tiny_model, tiny_tokenizer), a_subject(), samples=2, positions="all")
    kl, change = found.kl_attribution(), found.change_attribution()
    assert (kl.method, kl.signed) == ("kl", False)
    assert (change.method, change.signed) == ("probability_change", True)
    assert np.array_equal(kl.scores, found.kl) and np.array_equal(change.scores, found.change)
    record = json.loads(json.dumps([found.to_dict(), kl.to_dict(), change.to_dict()]))
    assert record[0]["law"] == "unigram" and record[0]["samples"] == 2
    assert len(record[0]["kl_nats"]) == 9


def test_progress_ends_at_the_total(tiny_model: Any, tiny_tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []
    perturb(
        a_writer(tiny_model, tiny_tokenizer), a_subject(), samples=3,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen and seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distribution": "bigram"}, "no replacement distribution 'bigram'"),
        ({"samples": 1}, "samples is 1"),
        ({"positions": "some"}, "positions is 'some'"),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, Any], message: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    with pytest.raises(InputError, match=message):
        perturb(a_writer(tiny_model, tiny_tokenizer), a_subject(), **settings)


def test_weights_that_are_no_numbers_are_refused(tiny_model: Any, tiny_tokenizer: Any) -> None:
    from creativewritinggpt.errors import RunError

    writer = a_writer(tiny_model, tiny_tokenizer)
    body_and_head(writer.model)  # the model is found fit before it breaks
    with torch.no_grad():
        writer.model.transformer.h[0].mlp.c_fc.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="not numbers"):
        perturb(writer, a_subject(), samples=2)


# --- what replaces a token -----------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_replacements_are_text_and_never_what_was_there(
    distribution: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    writer, subject = a_writer(tiny_model, tiny_tokenizer), a_subject(30)
    drawn = draw_replacements(distribution, writer, subject.ids, range(1, 30), samples=200, seed=0)
    assert drawn.shape == (29, 200)
    assert not (drawn == np.array(subject.ids[1:])[:, None]).any()
    assert drawn.min() >= 1 and drawn.max() < 384


def test_the_same_draws_serve_all_positions(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer, ids = a_writer(tiny_model, tiny_tokenizer), (0, 5, 9, 5)
    drawn = draw_replacements("uniform", writer, ids, [1, 2, 3], samples=20, seed=0)
    assert np.array_equal(drawn[0], drawn[2])
    assert len(set(drawn[0].tolist()) & set(drawn[1].tolist())) >= 18


def test_uniform_draws_cover_the_vocabulary_evenly(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    drawn = draw_replacements("uniform", writer, (0, 17), [1], samples=38_200, seed=0)[0]
    counts = np.bincount(drawn, minlength=384)
    assert counts[[0, 17]].tolist() == [0, 0]
    others = np.delete(counts, [0, 17])
    assert ((others - 100) ** 2 / 100).sum() < 382 + 4 * np.sqrt(2 * 382)  # chi-squared


def test_unigram_draws_keep_the_leading_space(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer)
    names = tiny_tokenizer.convert_ids_to_tokens(list(range(384)))
    spaced = [name.startswith("Ġ") for name in names]
    for token in (spaced.index(True), spaced.index(False, 1)):
        drawn = draw_replacements("unigram", writer, (0, token), [1], samples=100, seed=0)[0]
        assert {spaced[other] for other in drawn} == {spaced[token]}


def test_unigram_counts_are_those_of_the_sample(tiny_tokenizer: Any) -> None:
    counts = unigrams(tiny_tokenizer)
    common, rare = tiny_tokenizer.convert_tokens_to_ids(["e", "Ü"])
    assert counts[common] > 1000
    assert counts[rare] == 0 or counts[rare] < 10
    assert not (counts == 1).any()  # one more for those that are there, none for others


def test_the_model_draws_what_it_expects(tiny_model: Any, tiny_tokenizer: Any) -> None:
    writer = a_writer(tiny_model, tiny_tokenizer, "llama")
    ids = a_subject(4).ids
    drawn = draw_replacements("model", writer, ids, [3], samples=4000, seed=0)[0]
    with torch.no_grad():
        expected = torch.softmax(writer.model(torch.tensor([ids])).logits[0, 2].double(), -1)
    expected[[0, ids[3]]] = 0
    expected /= expected.sum()
    counts = 4000 * expected.numpy()
    found, some = np.bincount(drawn, minlength=384), counts > 0
    surprise = ((found - counts)[some] ** 2 / counts[some]).sum()  # chi-squared
    assert surprise < some.sum() + 4 * np.sqrt(2 * some.sum())
    assert np.argmax(counts) in np.argsort(found)[-5:]


def test_unigrams_need_a_tokenizer(tiny_model: Any) -> None:
    writer = make_writer(tiny_model("gpt2"))
    with pytest.raises(InputError, match="needs a tokenizer"):
        perturb(writer, a_subject())
    assert perturb(writer, a_subject(), distribution="uniform", samples=2).kl.any()
