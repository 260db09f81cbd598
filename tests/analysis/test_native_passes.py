"""The quick answer in a model's light form: the same as by transformers, which is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from creativewritinggpt.analysis.prefix_cache import Predictions, PrefixCache
from creativewritinggpt.analysis.subject import Target
from creativewritinggpt.analysis.why import reasons
from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.generation.style import set_strength
from creativewritinggpt.models.adapter import attach, save_model
from creativewritinggpt.models.loading import load_base, load_model

CPU = choose("cpu", "fp32", 1)
TEXT = "The keeper lit the lamp and the sea was dark, the sea was cold and the lamp went out"
FAMILIES = ["gpt2", "llama"]


@pytest.fixture
def adapter(tiny_folder: Any, tmp_path: Path) -> Any:
    """A factory of adapters whose effect is seen."""

    def make(family: str) -> Path:
        model = load_base(str(tiny_folder(family)), CPU)
        attach(model, Config(lora_r=4))
        torch.manual_seed(3)
        with torch.no_grad():
            for key, parameter in model.model.named_parameters():
                if "lora_" in key:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        save_model(model, tmp_path / "adapter", {}, "")
        return tmp_path / "adapter"

    return make


def whole(folder: Path) -> Any:
    """The transformers model of a folder."""
    model = load_model(str(folder), CPU)
    assert model.model is not None and model.files is None
    return model


def light(folder: Path) -> Any:
    model = load_model(str(folder), CPU)
    assert model.files is not None
    return model


def reason(model: Any, **settings: Any) -> Any:
    start = TEXT.rfind("out")
    steps = reasons(model, TEXT, (start, start + 3), **settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_give_the_numbers_of_transformers(tiny_folder: Any, family: str) -> None:
    folder = tiny_folder(family)
    ids = [1, 5, 17, 33, 9, 5, 42, 7, 7, 12, 3, 2]
    generator = np.random.default_rng(0)
    variants = np.tile(np.array(ids), (40, 1))
    variants[np.arange(40), generator.integers(0, 12, 40)] = generator.integers(3, 50, 40)
    targets = [Target(6, 42), Target(8, 7, foil=9), Target(12, 4)]
    found = []
    for model in (whole(folder), light(folder)):
        cache = PrefixCache(model, ids, [5, 7, 11])
        said = Predictions(cache)
        drops = np.zeros((40, 3))
        kl = np.zeros((40, 3))
        for part in cache.passes(variants):
            drops[part.rows] = said.drops(part, targets)
            kl[part.rows, part.places] = said.divergences(part).kl
        found.append((said.log_probabilities.numpy(), drops, kl, cache.head.weight.shape))
    assert model.files is not None
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(found[0][1]).max() > 1e-3
    assert found[0][3] == found[1][3]


@pytest.mark.parametrize("unit", ["word", "token", "sentence"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_that_of_transformers(tiny_folder: Any, family: str, unit: str) -> None:
    folder = tiny_folder(family)
    model = light(folder)
    one, other = reason(model, unit=unit, judge=True), reason(whole(folder), unit=unit, judge=True)
    assert model.files is not None  # still light
    assert one.probability == pytest.approx(other.probability, rel=1e-5)
    assert (one.target, one.rank) == (other.target, other.rank)
    assert [piece.text for piece in one.pieces] == [piece.text for piece in other.pieces]
    scores = [[piece.score for piece in found.pieces] for found in (one, other)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert one.trust.whole == pytest.approx(other.trust.whole, abs=1e-5)
    assert one.trust.loss == pytest.approx(other.trust.loss, abs=1e-5)


def test_an_adapter_and_its_strength_count(adapter: Any) -> None:
    folder = adapter("llama")
    model = light(folder)
    strong = reason(model)
    set_strength(model, 0.5)
    half = reason(model)
    with model.base():
        base = reason(model)
    full = whole(folder)
    assert strong.probability == pytest.approx(reason(full).probability, rel=1e-5)
    set_strength(full, 0.5)
    assert half.probability == pytest.approx(reason(full).probability, rel=1e-5)
    with full.base():
        assert base.probability == pytest.approx(reason(full).probability, rel=1e-5)
    assert len({round(one.probability, 6) for one in (strong, half, base)}) == 3


def test_a_model_without_a_light_form_is_explained_by_transformers(
    tiny_folder: Any,
) -> None:
    model = load_model(str(tiny_folder("qwen")), CPU)
    assert model.files is None
    assert reason(model).pieces


def test_transformers_is_not_imported(tiny_folder: Any) -> None:
    script = (
        "import sys\n"
        "from creativewritinggpt.analysis.why import why\n"
        "from creativewritinggpt.models.loading import load_model\n"
        "model = load_model(sys.argv[1], 'cpu', 'fp32')\n"
        "print(why(model, 'The lamp went out, and the sea', 'sea'))\n"
        "assert not {'transformers', 'peft'} & set(sys.modules), 'imported'\n"
    )
    command = [sys.executable, "-c", script, str(tiny_folder("llama"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "had a probability of" in done.stdout
