"""A method is one object: what is added to the registry is computed, judged, saved and drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import make_writer

from creativewritinggpt.analysis import registry
from creativewritinggpt.analysis.registry import (
    METHODS,
    Analysis,
    AnalysisSettings,
    Figure,
    Method,
    Score,
)
from creativewritinggpt.analysis.report import page_data, save
from creativewritinggpt.analysis.run import explain
from creativewritinggpt.errors import InputError

# --- what the module of a new method holds (docs/interpretability.md, "Adding a method") ---------

RECENCY = Score(
    "recency", "recency", "How near the word is to the chosen one.", signed=False, unit="share",
    axis="share by distance", summary="by distance",
)  # fmt: skip


def compute(analysis: Analysis) -> None:
    """Halves with every token of distance."""
    for model in analysis.models:
        scores = np.zeros((len(analysis.subject.targets), analysis.subject.length))
        for row, target in zip(scores, analysis.subject.targets, strict=True):
            row[: target.position] = 0.5 ** np.arange(target.position, 0, -1)
        analysis.add(RECENCY.attribution(scores, {"base": 0.5}), model)


METHOD = Method(
    name="recency",
    title="recency",
    description="How near each token is.",
    compute=compute,
    scores=(RECENCY,),
    figures=(
        Figure("bars", "recency", ("recency",)),
        Figure("matrix", "recency_matrix", ("recency",)),
    ),
)

# -------------------------------------------------------------------------------------------------


@pytest.fixture
def recency() -> Iterator[None]:
    registry.register(METHOD)
    yield
    registry.unregister("recency")


def test_a_new_method_is_in_the_results_the_page_and_the_pictures(
    recency: None, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    writer = make_writer(tiny_model("gpt2"), tiny_tokenizer)
    settings = AnalysisSettings(methods=["faithfulness", "recency"], write=2)
    found = explain(writer, "The lamp went out, and", settings)
    files = {path.name for path in save(found, tmp_path, settings)}
    assert files == {"recency.png", "recency_matrix.png", "faithfulness.png", "results.json",
                     "report.html"}  # fmt: skip
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    scores = record["methods"]["recency"]["tuned"]
    assert scores["unit"] == "share" and not scores["signed"]
    assert scores["scores"][0][found.subject.targets[0].position - 1] == 0.5
    assert record["faithfulness"]["recency"]["verdict"] in (
        registry.BETTER, registry.NO_BETTER, registry.TOO_SHORT,
    )  # fmt: skip
    shown = json.dumps(page_data(found.record))
    assert RECENCY.title in shown and RECENCY.description in shown


def test_methods_that_build_on_others_come_last(recency: None) -> None:
    order = [method.name for method in registry.in_order(["story", "recency", "attention"])]
    assert order == ["attention", "recency", "story"]
    assert registry.needed(registry.get("faithfulness")) == [
        "attention", "gradients", "perturbation", "occlusion", "recency",
    ]  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    method = registry.get(name)
    assert method.name == name and method.title and method.description.endswith(".")
    known = {score.name for score in method.scores}
    for figure in method.figures:
        assert set(figure.scores) <= known
        assert re.fullmatch(r"\w+", figure.file)
    for score in method.scores:
        assert score.title and score.description.endswith(".")


def test_names_of_scores_and_figures_are_unique() -> None:
    methods = [registry.get(name) for name in METHODS]
    for names in (
        [score.name for method in methods for score in method.scores],
        [figure.file for method in methods for figure in method.figures],
    ):
        assert len(names) == len(set(names))


def test_a_method_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="methods is 'magic'"):
        registry.get("magic")
