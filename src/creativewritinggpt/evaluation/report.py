"""``evaluation.json``, ``.jsonl`` and ``.md``, and the table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from .records import FILE, write_scores
from .run import Evaluation

Table = tuple[list[str], list[list[str]]]


def labels(evaluation: dict[str, Any]) -> list[str]:
    """The models, the one that the others are compared with first."""
    return list(evaluation["macro_perplexity"])


def rows(evaluation: dict[str, Any]) -> Table:
    """The main table: headings and rows of text."""
    first, *others = labels(evaluation)
    heads = ["domain", "docs", "tokens"]
    for label in (first, *others):
        heads += [f"{label} ppl", f"{label} bits/byte"]
        if label != first:
            heads += ["nats/token", "95 %"]
    table = []
    for name, entry in evaluation["domains"].items():
        row = [name, f"{entry[first]['documents']:,}", f"{entry[first]['tokens']:,}"]
        for label in (first, *others):
            row += [f"{entry[label]['perplexity']:.2f}", f"{entry[label]['bits_per_byte']:.3f}"]
            if label != first:
                row += difference(entry["differences"][label])
        table.append(row)
    if len(table) > 1:
        row = ["mean of domains", "", ""]
        for label in (first, *others):
            row += [f"{evaluation['macro_perplexity'][label]:.2f}", ""]
            row += ["", ""] if label != first else []
        table.append(row)
    return heads, table


def difference(change: dict[str, Any]) -> list[str]:
    """A difference and its interval as two cells; in bits a byte between tokenizers."""
    value, interval, unit = change["nats_per_token"], change["ci95"], ""
    if value is None:
        value, interval, unit = change["bits_per_byte"], change["bits_per_byte_ci95"], " b/B"
    shown = f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else ""
    return [f"{value:+.3f}{unit}", shown]


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
    lines += ["", *markdown_table(*rows(evaluation)), "", said_of_scores(evaluation), ""]
    return "\n".join(lines)


def said_of_scores(evaluation: dict[str, Any]) -> str:
    """How the main table was made."""
    said = (
        f"Perplexity is exp(nats / tokens) over windows of {evaluation['window']} tokens that "
        "start after an end-of-text token, each token scored once; bits per byte is over the UTF-8 "
        f"bytes of the original text. Nats/token is against {labels(evaluation)[0]} on the same "
        "documents (below 0 is better), with a 95 % interval from a paired bootstrap over groups "
        "of documents. The mean of domains is exp of the mean of their losses. Precision "
        f"{evaluation['precision']}."
    )
    if evaluation["stride"]:
        said += f" Sliding perplexities (in the JSON) have a stride of {evaluation['stride']}."
    if evaluation["legacy_ppl"]:
        shown = ", ".join(
            f"{label} {value:.2f}"
            for label, value in evaluation["legacy_ppl"].items()
            if value is not None
        )
        said += f" As the original project counted (first 512 tokens, by example): {shown}."
    if evaluation["empty_documents"]:
        said += f" Left out as empty: {evaluation['empty_documents']} documents."
    return said


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write what came of an evaluation into a folder, and name the files."""
    write_json(folder / "evaluation.json", evaluation.result)
    write_scores(folder / FILE, evaluation.scores)
    write_text(folder / "evaluation.md", as_markdown(evaluation.result))
    return [folder / name for name in ("evaluation.json", FILE, "evaluation.md")]
