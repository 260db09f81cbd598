"""``cwgpt data inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cli


def test_json_is_one_object_on_stdout_and_nothing_else(cwgpt: Any) -> None:
    done = cwgpt("data", "inspect", "--sources", "sample", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["sources"]) == {"openwebtext", "rocstories", "wikitext", "writingprompts"}
    assert result["documents"] == sum(s["documents"] for s in result["sources"].values())
    # Nothing is fetched for a look at data: without a model at hand there are no tokens.
    assert result["tokens"] is None


def test_tokens_are_those_of_the_model_that_is_named(
    cwgpt: Any, tiny_folder: Any, tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    (tmp_path / "mine.csv").write_text(
        "prompt,text\n" + "".join(f"Why {i}?,It was {i * 7919} and it rained.\n" for i in range(30))
    )
    path = str(tmp_path / "mine.csv")
    done = cwgpt("data", "inspect", path, "--model-name", str(folder), "--mask-prompt")
    assert done.returncode == 0, done.stderr
    assert "mine: CSV, prompt from 'prompt', text from 'text'" in done.stdout
    assert "⟦Why " in done.stdout and "tokens a document" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere.txt"], "error: nowhere.txt does not exist"),
        (["inspect", "--sources", "poems"], "error: no source 'poems'"),
        (["look"], "error:"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    cwgpt: Any, arguments: list[str], message: str
) -> None:
    done = cwgpt("data", *arguments)
    assert done.returncode == 2 and message in done.stderr and not done.stdout
