"""Pictures: readable labels, right sums, every word its own bar, whole files."""

import warnings
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_records import long_text, make_record

from creativewritinggpt.analysis import score_plots
from creativewritinggpt.analysis.score_plots import KEPT_BARS, Strip, draw_bars
from creativewritinggpt.analysis.subject import word_sums
from creativewritinggpt.plotting import plot_text, word_label


@pytest.fixture(autouse=True)
def _no_warnings():
    """A missing glyph or a misread formula is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


TEXT = "The dragon 🐉 sang_ for $40 & <|endoftext|>\nThe dragon left."


GRADIENTS = ("integrated_gradients",)
PERTURBATION = ("kl", "probability_change")


def _said(figure):
    return [text.get_text() for text in figure.texts]


def _scores(record, name="integrated_gradients"):
    return np.array(record["methods"][name]["tuned"]["scores"][0])


def _tokens(record):
    return [word["tokens"] for word in record["words"]]


@pytest.fixture(scope="module")
def record():
    return make_record(TEXT, len(TEXT), next_only=True)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, to be asked what is on them."""
    kept = []

    def keep(figure, path, svg=False):
        figure.canvas.draw()
        kept.append(figure)
        return [path]

    monkeypatch.setattr(score_plots, "save_figure", keep)
    return kept


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("$5 or $6", r"\$5 or \$6"),
        ("a_b", "a_b"),
        ("\n\n", "⏎⏎"),
        ("<|endoftext|>", "<|endoftext|>"),
        ("🐉", "⟨dragon⟩"),
        ("👩🏽\u200d🚀", "⟨woman⟩⟨rocket⟩"),
        ("中", "⟨U+4E2D⟩"),
        ("“Hi” — é…", "“Hi” — é…"),
        ("\x07", "⟨U+0007⟩"),
        ("\ufffd", "\ufffd"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\u00a0b", "a b"),
    ],
)
def test_labels_say_what_the_text_says(text, label):
    assert plot_text(text) == label


def test_long_labels_are_cut_and_the_start_token_has_a_name():
    assert plot_text("abcdefghij", 5) == "abcd…"
    assert word_label("") == "⟨start⟩"


@settings(deadline=None)
@given(st.text(max_size=12))
def test_no_label_is_a_formula_or_lacks_a_glyph(text):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cbook import is_math_text
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 1))
    drawn = figure.text(0, 0.5, plot_text(text))
    FigureCanvasAgg(figure)
    assert not is_math_text(drawn.get_text())
    drawn.get_window_extent()  # lays the text out, and warns of glyphs that are missing


def test_bars_are_the_words_sums_in_the_order_of_the_text(record, drawn, tmp_path):
    draw_bars(record, tmp_path / "gradients.png", GRADIENTS)
    axes = drawn[0].axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    words = [word for word in record["words"]]
    signed = _scores(record)
    np.testing.assert_allclose(widths, [signed[word["tokens"]].sum() for word in words])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [word_label(word["text"], 22) for word in words]
    assert len(set(labels)) < len(labels), "words that repeat keep bars of their own"
    # Orange supports, blue opposes, as the picture says.
    for bar, width in zip(axes.patches, widths, strict=True):
        assert (bar.get_facecolor()[0] > bar.get_facecolor()[2]) == (width > 0)


def test_the_caption_says_how_it_was_found(record, drawn, tmp_path):
    draw_bars(record, tmp_path / "gradients.png", GRADIENTS)
    said = " ".join(text.get_text() for text in drawn[0].texts)
    for fact in ("silence", "p = ", "rank", "end of text", "24 steps", "converged", "seed 0",
                 "outputs/best_model", "starter", "base model"):  # fmt: skip
        assert fact in said
    odd = {**record, "gradients": {**record["gradients"], "converged": False}}
    draw_bars(odd, tmp_path / "gradients.png", GRADIENTS)
    assert "NOT CONVERGED" in " ".join(text.get_text() for text in drawn[1].texts)


def test_perturbation_has_errors_and_the_signed_change_beside(record, drawn, tmp_path):
    draw_bars(record, tmp_path / "perturbation.png", PERTURBATION)
    size, change = drawn[0].axes
    assert all(bar.get_width() >= 0 for bar in size.patches)
    assert size.containers and change.containers
    errors = np.array(record["methods"]["kl"]["tuned"]["standard_error"][0])
    first = record["words"][1]["tokens"]
    whisker = size.collections[0].get_segments()[1]
    spread = 2 * np.sqrt((errors[first] ** 2).sum())
    assert whisker[1][0] - whisker[0][0] == pytest.approx(2 * spread)
    assert "noise floor" in drawn[0].texts[-1].get_text()


def test_against_a_foil_the_axes_are_of_the_lead_and_not_of_the_log_probability(
    record, drawn, tmp_path
):
    foil = {"id": 5, "text": " window", "log_probability": -3.0}
    odd = {**record, "targets": [{**record["targets"][0], "foil": foil}]}
    draw_bars(odd, tmp_path / "gradients.png", GRADIENTS)
    draw_bars(odd, tmp_path / "perturbation.png", PERTURBATION)
    score_plots.draw_curves(odd, tmp_path / "faithfulness.png")
    assert drawn[0].axes[0].get_xlabel() == "part of the lead over “window”, nats"
    assert drawn[1].axes[1].get_xlabel() == "lead over “window” lost, nats"
    assert "lead over “window” with tokens taken away: lower is better" in _said(drawn[2])


def test_where_nothing_counts_the_scale_has_no_tiny_numbers(record, drawn, tmp_path):
    nothing = {"tuned": {"signed": True, "unit": "nats", "scores": [[0.0] * len(record["input"])]}}
    odd = {**record, "methods": {"integrated_gradients": nothing}}
    draw_bars(odd, tmp_path / "gradients.png", GRADIENTS)
    assert drawn[0].axes[0].get_xlim()[1] > 1


def test_the_scale_of_a_matrix_of_one_row_leaves_its_caption_free(record, drawn, tmp_path):
    score_plots.draw_matrix(record, tmp_path / "matrix.png", "integrated_gradients")
    figure = drawn[0]
    scale = figure.axes[1]
    lowest = min(scale.get_window_extent().y0, scale.yaxis.label.get_window_extent().y0)
    assert figure.texts[-1].get_window_extent().y1 < lowest


def test_long_labels_of_a_matrix_leave_its_title_free(drawn, tmp_path):
    text = "The 🐉🐉🐉🐉 and the MMMMMMMMMMMMMMMMMMMMMM sang. Then they left."
    record = make_record(text, 10)
    score_plots.draw_matrix(record, tmp_path / "matrix.png", "integrated_gradients")
    figure = drawn[0]
    title = figure.texts[0].get_window_extent()
    highest = max(label.get_window_extent().y1 for label in figure.axes[0].get_xticklabels())
    assert highest < title.y0


def test_of_a_long_text_the_words_that_count_most_are_drawn_and_it_is_said(drawn, tmp_path):
    text = long_text(120)
    record = make_record(text, len(text), next_only=True, layers=1, heads=1)
    draw_bars(record, tmp_path / "gradients.png", GRADIENTS)
    widths = np.array([bar.get_width() for bar in drawn[0].axes[0].patches])
    assert len(widths) == KEPT_BARS
    sums = word_sums(_scores(record), _tokens(record))
    assert np.abs(widths).min() == pytest.approx(np.sort(np.abs(sums))[-KEPT_BARS])
    assert f"the {KEPT_BARS} of " in drawn[0].texts[-1].get_text()


def test_the_matrix_is_the_words_sums_and_grey_where_nothing_can_be(drawn, tmp_path):
    record = make_record(TEXT, 12)
    score_plots.draw_matrix(record, tmp_path / "matrix.png", "integrated_gradients")
    shown_values = drawn[0].axes[0].images[0].get_array()
    labels, groups = score_plots.explained_words(record)
    assert shown_values.shape[0] == len(labels)
    scores = np.array(record["methods"]["integrated_gradients"]["tuned"]["scores"])
    last = scores[groups[-1]].sum(0)
    expected = [last[word["tokens"]].sum() for word in record["words"][:-1]]
    np.testing.assert_allclose(shown_values[-1].filled(np.nan), expected)
    assert np.ma.getmaskarray(shown_values)[0].sum() > 0
    assert not np.ma.getmaskarray(shown_values)[-1].any()


def test_faithfulness_names_what_is_no_better_than_random(record, drawn, tmp_path):
    score_plots.draw_curves(record, tmp_path / "faithfulness.png")
    said = _said(drawn[0])
    assert "saliency: no better than random" in said
    assert "integrated gradients: better than random" in said
    assert len(drawn[0].axes) == 2 * len(record["faithfulness"])


def test_files_are_pictures_and_svg_on_demand(tmp_path):
    text = "The old castle 🐉 for $40"
    record = make_record(text, len(text), next_only=True)
    written = draw_bars(record, tmp_path / "gradients.png", GRADIENTS, svg=True)
    assert [path.name for path in written] == ["gradients.png", "gradients.svg"]
    assert draw_bars(record, tmp_path / "perturbation.png", PERTURBATION) == [
        tmp_path / "perturbation.png"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gradients.png", "gradients.svg", "perturbation.png",
    ]  # fmt: skip
    for path in tmp_path.glob("*.png"):
        pixels = matplotlib.image.imread(path)
        assert pixels.shape[1] == pytest.approx(9 * 150, abs=2)
        assert pixels.std() > 0.02
    assert ElementTree.parse(tmp_path / "gradients.svg").getroot().tag.endswith("svg")
    again = draw_bars(record, tmp_path / "again.png", GRADIENTS, svg=True)
    assert again[1].read_bytes() == (tmp_path / "gradients.svg").read_bytes()


def test_the_strip_breaks_lines_where_they_end_and_where_the_text_does():
    words = [("lamp", 0.1, False)] * 30 + [("\n", 0.0, False), ("end", 0.2, True)]
    text = Strip(words, chosen=None, following="next", signed=True, width=4.0)
    lines = text.lines
    assert len(lines) > 3
    assert [index for line in lines for index, _, _ in line] == [*range(32), -1]
    assert [index for index, _, _ in lines[-1]] == [31, -1]
    assert all(at < 4.0 for line in lines for _, _, at in line)
    assert Strip([("a", 0.0, False)] * 500, None, None, True, 4.0).height == 0
