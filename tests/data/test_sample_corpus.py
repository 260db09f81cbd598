"""The corpus that ships with the package: enough of it, varied, in the hub's columns."""

import json
import re
from collections import defaultdict
from importlib import resources

import pytest

FOLDER = resources.files("creativewritinggpt") / "data" / "sample"
COLUMNS = {
    "writingprompts": {"prompt", "story"},
    "rocstories": {"prompt", "continuation"},
    "wikitext": {"text"},
    "openwebtext": {"text"},
}


def _rows(name):
    lines = (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _pieces():
    """Every piece of writing with a name; articles are put together from their lines."""
    for name in COLUMNS:
        rows = _rows(name)
        if name == "wikitext":
            article, number = [], 0
            for row in rows:
                if re.fullmatch(r" = [^=].* = \n", row["text"]) and article:
                    yield f"{name} {number}", " ".join(article)
                    article, number = [], number + 1
                article.append(row["text"])
            yield f"{name} {number}", " ".join(article)
        else:
            for number, row in enumerate(rows):
                text = row.get("story") or row.get("text") or " ".join(row.values())
                yield f"{name} {number}", text


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_the_hubs(name):
    rows = _rows(name)
    assert rows and all(set(row) == COLUMNS[name] for row in rows)


def test_there_are_at_least_20000_words():
    assert sum(len(text.split()) for _, text in _pieces()) >= 20_000


def test_no_two_pieces_share_a_run_of_eight_words():
    seen = defaultdict(set)
    for name, text in _pieces():
        words = re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))
        for start in range(len(words) - 7):
            seen[tuple(words[start : start + 8])].add(name)
    shared = {" ".join(run): names for run, names in seen.items() if len(names) > 1}
    assert not shared, dict(list(shared.items())[:5])


def test_five_sentence_stories_have_five_sentences():
    for row in _rows("rocstories"):
        text = row["prompt"] + " " + row["continuation"]
        text = re.sub(r"\b(Mrs?|Ms|Dr|St|a\.m|p\.m|No)\.", r"\1", text)
        ends = re.findall(r"[.!?][\"”’']*(?=\s+[\"“‘']?[A-Z0-9]|$)", text)
        assert 4 <= len(ends) <= 7, text


def test_text_has_no_control_characters():
    for name, text in _pieces():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]", text), name
