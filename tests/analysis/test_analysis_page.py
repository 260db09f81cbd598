"""The page: whole in itself, true to the record, and at work in a real browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_records import PROMPT, STORY, long_text, make_record

from creativewritinggpt.analysis import report as page_module
from creativewritinggpt.analysis.record import text_summary
from creativewritinggpt.analysis.report import page, page_data, text_pieces
from creativewritinggpt.analysis.subject import Subject, words_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Elements(HTMLParser):
    """What a browser would find: elements with their attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.scripts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def record():
    return make_record()


@pytest.fixture(scope="module")
def elements(record):
    return Elements(page(record))


def _embedded(elements):
    return json.loads(elements.scripts[0])


def _floats(packed):
    return np.frombuffer(base64.b64decode(packed), "<f4")


def _rows(matrix, targets):
    return np.concatenate(
        [np.asarray(row)[: t["position"]] for row, t in zip(matrix, targets, strict=True)]
    )


def test_nothing_is_loaded_from_anywhere(elements):
    for tag, attributes in elements.found:
        assert tag not in ("link", "img", "iframe", "object", "embed"), tag
        assert not {"src", "srcset", "data"} & set(attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    policy = next(a["content"] for t, a in elements.found if "http-equiv" in a)
    assert "default-src 'none'" in policy
    whole = page(make_record(next_only=True))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", whole)
    # The one address is the name of the SVG language, which nobody fetches.
    assert set(re.findall(r"https?://[^\s\"']+", whole)) <= {"http://www.w3.org/2000/svg"}


def test_the_policy_names_the_hash_of_the_script(elements):
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    policy = next(a["content"] for t, a in elements.found if "http-equiv" in a)
    assert f"script-src 'sha256-{digest}'" in policy


def test_text_can_not_break_out_of_the_data(record, elements):
    assert "</script>" in record["text"]
    assert len(elements.scripts) == 2
    assert "<" not in elements.scripts[0]
    pieces = _embedded(elements)["pieces"]
    assert "".join(piece["text"] for piece in pieces) == record["text"]


@pytest.mark.parametrize("odd", ["\u2028", "\ud800", "<!--<script>", "{{css}}", "&amp;", "\x00"])
def test_odd_characters_arrive_as_they_are(odd):
    text = f"The {odd} door"
    found = Elements(page(make_record(text, len(text), next_only=True)))
    assert len(found.scripts) == 2
    assert "".join(piece["text"] for piece in _embedded(found)["pieces"]) == text


def test_scores_arrive_as_they_are(record, elements):
    data = _embedded(elements)
    for name, models in record["methods"].items():
        for model, found in models.items():
            packed = data["methods"][name][model]
            expected = _rows(found["scores"], record["targets"])
            np.testing.assert_allclose(_floats(packed["scores"]["f32"]), expected, rtol=1e-6)
            if "standard_error" in found:
                expected = _rows(found["standard_error"], record["targets"])
                np.testing.assert_allclose(_floats(packed["error"]["f32"]), expected, rtol=1e-6)


def test_many_scores_are_halved_and_stay_within_a_step(record, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_SCORE_BYTES", 0)
    found = record["methods"]["integrated_gradients"]["tuned"]
    packed = page_data(record)["methods"]["integrated_gradients"]["tuned"]["scores"]
    whole = np.frombuffer(base64.b64decode(packed["i16"]), "<i2").astype(float)
    steps = np.repeat(_floats(packed["scale"]), [t["position"] for t in record["targets"]])
    expected = _rows(found["scores"], record["targets"])
    assert (np.abs(whole * steps - expected) <= 0.51 * steps).all()


def test_attention_keeps_small_weights_apart(record):
    packed = page_data(record)["attention"]
    assert not packed["reduced"]
    weights = record["attention"]["rows"]
    decoded = (np.frombuffer(base64.b64decode(packed["rows"]), np.uint8) / 255.0) ** 2
    expected = np.stack(
        [[_rows(head, record["targets"]) for head in layer] for layer in weights]
    ).ravel()
    # A step of the root is 1/255, so that of the weight is twice its root times that.
    assert (np.abs(decoded - expected) <= np.sqrt(expected) / 255 + 1 / 255**2).all()


def test_too_many_heads_become_their_mean_and_largest(record, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_ATTENTION_BYTES", 1000)
    packed = page_data(record)["attention"]
    assert packed["reduced"]
    assert len(packed["views"]) == 2
    decoded = np.frombuffer(base64.b64decode(packed["rows"]), np.uint8).reshape(4, 2, -1)
    largest = _rows(record["attention"]["rows"][1].max(0), record["targets"])
    assert np.abs((decoded[1, 1] / 255.0) ** 2 - largest).max() < 0.005


def test_without_an_adapter_there_is_one_model():
    data = page_data(make_record(base=False, next_only=True))
    assert all(list(models) == ["tuned"] for models in data["methods"].values())
    assert "difference" not in data


def test_what_the_record_does_not_have_is_left_out(record):
    bare = {k: v for k, v in record.items() if k not in ("attention", "lens", "story", "influence")}
    data = page_data({**bare, "faithfulness": {}, "difference": None})
    assert not {"attention", "lens", "story", "difference", "faithfulness"} & set(data)


def test_numbers_that_json_does_not_know_become_null(record):
    odd = {**record, "settings": {"a": float("nan"), "b": np.float32(0.5), "c": np.arange(2)}}
    settings = page_data(odd)["settings"]
    assert settings == {"a": None, "b": 0.5, "c": [0, 1]}


def test_what_is_out_of_view_stands_before_the_text():
    data = page_data(make_record(view_start=30))
    assert data["before"] == (PROMPT + STORY)[:30]
    assert "".join(piece["text"] for piece in data["pieces"]) == (PROMPT + STORY)[30:]


def test_words_for_people_come_from_the_registry_or_from_the_name(record):
    titles = page_data(record)["titles"]
    assert list(titles)[:2] == ["attention_without_sink", "rollout"]
    assert titles["kl"]["title"] == "perturbation (KL)"
    assert titles["rollout"]["family"] == "attention"
    one_more = {**record["methods"], "my_method": record["methods"]["occlusion"]}
    titles = page_data({**record, "methods": one_more})["titles"]
    assert list(titles)[-1] == "my_method"
    assert titles["my_method"] == {"title": "my method", "about": "", "family": ""}


def test_a_text_too_short_for_the_faithfulness_test_is_said_once():
    record = make_record()
    assert not any("too short" in line for line in text_summary(record))
    for found in record["faithfulness"].values():
        found.update(better_than_random=False, verdict="too short to tell")
    lines = text_summary(record)
    assert sum("too short to tell" in line for line in lines) == 1
    assert not any("no better than random" in line for line in lines)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_are_the_text_and_hold_every_token_once(data):
    text = data.draw(st.text("ab \n\t.,🐉é“灯が。ที่", min_size=1, max_size=30))
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    ends = sorted({*cuts, len(text)} - {0})
    spans = list(zip([0, *ends], ends, strict=False))
    doubled = data.draw(st.sets(st.integers(0, len(spans) - 1)))
    spans = [span for i, span in enumerate(spans) for _ in range(3 if i in doubled else 1)]
    spans = [(0, 0), *spans]
    words = words_of(Subject(text, tuple(range(len(spans))), tuple(spans), (), len(text)))
    word_of = {token: i for i, word in enumerate(words) for token in word.tokens}
    entries = [
        {"position": i, "char_span": list(span), "word": word_of.get(i)}
        for i, span in enumerate(spans)
    ]
    pieces = text_pieces({"text": text, "input": entries, "view_start": 0})
    assert "".join(piece["text"] for piece in pieces) == text
    tokens = [token for piece in pieces for token in piece.get("tokens", [])]
    assert tokens == list(range(1, len(spans)))


# --- in a browser ------------------------------------------------------------------------------

WATCH, ACT = (
    f"<script>\n{part}</script>"
    for part in (Path(__file__).parents[1] / "page_actions.js").read_text("utf-8").split("// ---\n")
)

KEPT = ("text", "tokens", "input", "words", "targets", "target", "view_start", "model", "seed")

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the chromium browser")


def _act(record, folder):
    """Open a copy of the page that moves by itself and tells what it saw."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', WATCH, page(record))
    (folder / "copy.html").write_text(text.replace("</body>", ACT + "</body>"), "utf-8")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-quic", f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=20000", "--dump-dom",
        (folder / "copy.html").as_uri(),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, timeout=300, check=True)
    told = re.search(r'data-result="([^"]*)"', found.stdout.decode("utf-8", "replace"))
    assert told, "the page did not get to its end"
    return json.loads(html.unescape(told.group(1)))


def _told_by(record, target_word):
    """What the page should list for a word: the words by size, with signed sums."""
    group = [i for i, t in enumerate(record["targets"]) if t["word"] == target_word]
    row = np.sum(
        [record["methods"]["integrated_gradients"]["tuned"]["scores"][i] for i in group], 0
    )
    first = record["targets"][group[0]]["position"]
    sums = [
        (
            word["text"] if word["text"].strip() or not word["text"] else "⏎",
            row[word["tokens"]].sum(),
        )
        for i, word in enumerate(record["words"])
        if word["tokens"][0] < first and i != target_word
    ]
    ranked = sorted(sums, key=lambda pair: -abs(pair[1]))[:10]
    return [[text or "start", f"{value:+.3f}".replace("-", "−")] for text, value in ranked]


@in_browser
@pytest.mark.browser
def test_a_person_can_move_and_switch_everything(tmp_path, record):
    result = _act(record, tmp_path)
    assert result["problems"] == []
    assert result["scripts"] == 4, "the text made no script of its own"
    for sign in ("<|endoftext|>", "$40", "🐉", "&", "“or pay my $40.”", "castle.</script>", "⏎"):
        assert sign in result["first"]
    moves = result["moves"]
    assert all(focused and count == 1 for _, _, focused, count in moves)
    at = record["targets"][0]["word"]
    stops = [f"“{word['text']}”" for word in record["words"][at:]]
    assert [heading for _, heading, _, _ in moves[:4]] == [stops[i] for i in (0, 1, 2, 1)]
    assert moves[6][1] == moves[7][1] == stops[-1], "the end is the end"
    assert moves[4][1] != moves[3][1], "down leads to another line"
    assert result["held"].startswith("Held")
    assert result["why"] == _told_by(record, record["targets"][-1]["word"])
    for unit, method, model, legend, coloured in result["views"]:
        assert "NaN" not in legend and "–" not in legend, (unit, method, model)
        assert coloured > 0, (unit, method, model)
    assert result["theme"] == "dark"
    assert set(result["sections"]) >= {
        "matrix-section", "attention-section", "lens-section", "difference-section",
        "story-section", "faithfulness-section", "settings-section",
    }  # fmt: skip


@in_browser
@pytest.mark.browser
def test_one_next_word_without_an_adapter(tmp_path):
    text = "The enchanted castle held secrets that"
    record = make_record(text, len(text), base=False, next_only=True)
    record["targets"][0]["foil"] = {"id": 5, "text": " peace $&", "log_probability": -3.0}
    for found in record["faithfulness"].values():
        found.update(better_than_random=False, verdict="too short to tell")
    result = _act(record, tmp_path)
    assert "too short to tell" in result["judged"]
    assert result["problems"] == []
    assert "the lead over “peace $&” of the explained word" in result["judged"]
    assert "log-probability" not in result["judged"]
    assert "difference-section" not in result["sections"]
    assert "matrix-section" not in result["sections"]
    assert {heading for _, heading, _, _ in result["moves"]} == {"“silence”"}


@in_browser
@pytest.mark.browser
def test_what_was_interrupted_early_still_shows_text_and_alternatives(tmp_path):
    record = {k: v for k, v in make_record().items() if k in KEPT} | {"methods": {}}
    result = _act(record, tmp_path)
    assert result["problems"] == []
    assert all(count == 1 for _, _, _, count in result["moves"])
    assert result["why"] == []


@in_browser
@pytest.mark.browser
def test_a_story_of_300_words_works_and_stays_small(tmp_path):
    text = long_text(400)
    prompt = len(" ".join(text.split(" ")[:100])) + 1
    record = make_record(text, prompt, layers=12, heads=12)
    assert len(record["targets"]) >= 300
    assert len(page(record)) < 15_000_000
    result = _act(record, tmp_path)
    assert result["problems"] == []
    assert result["why"] == _told_by(record, record["targets"][-1]["word"])
