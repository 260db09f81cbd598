from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.data.readers.columns import PROMPT, TEXT
from creativewritinggpt.data.readers.recognise import ENDINGS
from creativewritinggpt.data.sources import named_sources

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_example_of_a_custom_source_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(code) == 1
    names: dict[str, Any] = {"__name__": "example"}
    # The poems differ by a number only: what is held out has no near duplicates if it is long.
    exec(compile(code[0], str(PAGE), "exec"), names)
    corpus = names["corpus"]
    assert corpus.reports["haiku"].documents == 40 and len(corpus.validation) == 4


def test_the_page_names_every_ending_column_and_source() -> None:
    page = PAGE.read_text("utf-8")
    for name in (*ENDINGS, *TEXT, *PROMPT, *named_sources()):
        assert f"`{name}`" in page or f"`{name}" in page, name
    for source in named_sources().values():
        assert source.files or (source.hub is not None and source.hub.repository in page)
