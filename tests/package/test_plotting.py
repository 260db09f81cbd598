"""Figures: what is drawn holds no memory once it is written."""

import gc

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from page_records import make_record
from subjects import plain_subject

from creativewritinggpt.analysis.attention_plots import draw_layers, draw_overview
from creativewritinggpt.analysis.methods.attention import AttentionMaps
from creativewritinggpt.analysis.score_plots import draw_bars
from creativewritinggpt.training.metrics import draw_curves


def _curves(path):
    metrics = {
        "batch_losses": [3.0, 2.0], "learning_rate": [1e-3, 1e-4], "base_val_loss": 3.2,
        "base_val_perplexity": 24.5, "evaluation_steps": [2], "val_loss": [3.1],
        "val_perplexity": [22.2], "best_step": 2, "overfits_after": None, "resumed_from": [],
        "config": {"model_name": "a"}, "domains": {"x": {"base_val_loss": 3.2, "val_loss": [3.1]}},
    }  # fmt: skip
    draw_curves(metrics, path)


def _bars(path):
    text = "The dragon sang."
    draw_bars(make_record(text, len(text), next_only=True), path, ("integrated_gradients",), True)


def _attention(path):
    maps = AttentionMaps(np.full((2, 2, 4, 4), 0.25, dtype=np.float32))
    draw_layers(maps, plain_subject(4), path.parent, svg=True)
    draw_overview(maps, plain_subject(4), path.parent, svg=True)


def _canvases():
    return [one for one in gc.get_objects() if type(one) is FigureCanvasAgg]


@pytest.mark.parametrize("draw", [_curves, _bars, _attention])
def test_pixels_of_a_written_figure_are_freed_without_the_search_for_cycles(draw, tmp_path):
    gc.collect()
    gc.disable()
    others = _canvases()  # of other tests
    try:
        draw(tmp_path / "a.png")
        left = [one for one in _canvases() if one not in others]
    finally:
        gc.enable()
    assert list(tmp_path.glob("*.png"))
    assert not left
