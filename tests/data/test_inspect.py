from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.config.run import Config
from creativewritinggpt.data.corpus import Corpus, load_corpus
from creativewritinggpt.data.inspect import inspect_corpus, render

WORDS = [f"{a}{b}" for a in ("lamp", "sea", "king", "door", "salt", "moon") for b in "abcdefghijk"]


def text(seed: int, count: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count)).capitalize() + "."


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = [{"prompt": f"Ask {i}?", "text": text(i, 10 + i)} for i in range(40)]
    rows += [{"prompt": "Ask again?", "text": rows[0]["text"]}, rows[3], {"prompt": "x"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.txt").write_text("\n\n".join(text(100 + i, 30) for i in range(40)))
    return load_corpus(Config(), [str(tmp_path / "mine.jsonl"), str(tmp_path / "other.txt")])


def test_the_description_has_what_the_contract_names(corpus: Corpus, tiny_tokenizer: Any) -> None:
    result = inspect_corpus(corpus, tiny_tokenizer, max_length=64)
    json.dumps(result)
    assert result["documents"] == 43 and result["words"] > 500
    mine = result["sources"]["mine"]
    assert mine["documents"] == 42 and mine["duplicates"] == 1
    assert mine["dropped"] == {"rows without text": 1}
    assert mine["split"]["train"] + mine["split"]["validation"] + mine["near_duplicates"] == 41
    assert set(mine["length"]) == {"min", "median", "p95", "max"}
    assert sum(mine["histogram"]["counts"]) == 41 - mine["near_duplicates"]
    assert result["tokens"] == sum(source["tokens"] for source in result["sources"].values())
    assert result["rows"]["filled"] > 0.5 and set(result["mixture"]) == {"mine", "other"}


def test_without_a_tokenizer_tokens_are_null_and_lengths_are_words(corpus: Corpus) -> None:
    result = inspect_corpus(corpus, None, max_length=64)
    assert result["tokens"] is None and result["unit"] == "words" and result["examples"] == []
    assert result["sources"]["mine"]["tokens"] is None
    assert result["sources"]["mine"]["length"]["min"] == 12
    assert "words a document: 12 to" in render(result, colour=False)


def test_masked_tokens_are_told_apart_with_and_without_colour(
    corpus: Corpus, tiny_tokenizer: Any
) -> None:
    masked = inspect_corpus(corpus, tiny_tokenizer, max_length=512, mask_prompt=True)
    runs = [
        run
        for example in masked["examples"]
        for piece in example["pieces"]
        if piece["source"] == "mine"
        for run in piece["runs"]
    ]
    assert any(run["text"].startswith("Ask ") and not run["trained"] for run in runs)
    assert all(run["trained"] for run in runs if not run["text"].startswith("Ask "))
    assert any(run["text"] == "<end>" for run in runs)
    plain, coloured = render(masked, colour=False), render(masked, colour=True)
    assert "⟦Ask " in plain and "\x1b" not in plain
    assert "\x1b[2m⟦Ask " in coloured and "\x1b[32m" in coloured
    # On a terminal lines are broken between words, and nothing is lost.
    narrow = render(masked, colour=False, width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.split() == plain.split()
    whole = inspect_corpus(corpus, tiny_tokenizer, max_length=512)
    assert all(
        run["trained"] for e in whole["examples"] for piece in e["pieces"] for run in piece["runs"]
    )
    shown = render(whole, colour=False)
    assert "⟦" not in shown.split("⟧", 1)[1]


def test_the_examples_are_the_texts_of_the_documents(corpus: Corpus, tiny_tokenizer: Any) -> None:
    result = inspect_corpus(corpus, tiny_tokenizer, max_length=2048)
    texts = {document.full_text() for document in corpus.train}
    for example in result["examples"]:
        for piece in example["pieces"]:
            said = "".join(run["text"] for run in piece["runs"])
            assert any(said.removesuffix("<end>") in text for text in texts)


def test_what_a_terminal_would_obey_is_not_shown(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = [{"text": f"\x1b[31m red {text(i, 20)} \x07"} for i in range(20)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_corpus(Config(), [str(path)])
    assert "\x1b" not in render(inspect_corpus(loaded, tiny_tokenizer, max_length=64), colour=False)
