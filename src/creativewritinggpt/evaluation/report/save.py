"""``evaluation.json``, ``.jsonl``, ``.md`` and ``.html``, and the tables in the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import write_json, write_text
from ..run import Evaluation
from .page import page
from .records import FILE, write_scores
from .tables import (
    Table,
    choice_rows,
    forgetting_rows,
    generation_rows,
    originality_rows,
    rows,
    said_of,
    task_rows,
    titled,
)

TEXTS = "evaluation_texts.jsonl"

__all__ = ["Table", "as_markdown", "rows", "tables", "write_report"]


def tables(evaluation: dict[str, Any]) -> list[tuple[str, Table, str]]:
    """Every table of an evaluation that has rows: its title, itself, and how it was made."""
    made = [
        ("", rows(evaluation)),
        ("Forgetting", forgetting_rows(evaluation)),
        ("Tests", choice_rows(evaluation)),
        ("Tasks", task_rows(evaluation)),
        *((f"Written: {key}", table) for key, table in generation_rows(evaluation)),
        *((f"Originality: {key}", table) for key, table in originality_rows(evaluation)),
    ]
    return [(title, table, said_of(title, evaluation)) for title, table in made if table[1]]


def markdown_table(heads: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown, numbers on the right."""
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|")
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table)
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def as_markdown(evaluation: dict[str, Any]) -> str:
    """``evaluation.md``."""
    lines = ["# Evaluation", ""]
    for model in evaluation["models"]:
        lines.append(f"- {model['role']}: `{model['name']}`")
    lines.append("")
    for title, table, said in tables(evaluation):
        lines += [f"## {title}", ""] if title else []
        lines += [*markdown_table(*table), ""]
        lines += [said, ""] if said else []
    for what, why in evaluation["without"].items():
        lines.append(f"- {titled(what)} was not measured: {why}.")
    return "\n".join(lines).rstrip() + "\n"


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write what came of an evaluation into a folder, and name the files."""
    write_json(folder / "evaluation.json", evaluation.result)
    write_scores(folder / FILE, evaluation.scores)
    names = ["evaluation.json", FILE]
    if evaluation.texts:
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in evaluation.texts)
        write_text(folder / TEXTS, "".join(lines))
        names.append(TEXTS)
    write_text(folder / "evaluation.md", as_markdown(evaluation.result))
    write_text(folder / "evaluation.html", page(evaluation))
    return [folder / name for name in (*names, "evaluation.md", "evaluation.html")]
