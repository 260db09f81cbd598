"""``evaluation.json`` and ``evaluation.md``: base and tuned model on the same documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data.document import Document
from ..errors import InputError
from ..files import write_json, write_text
from ..models.writer import Writer
from .perplexity import WINDOW, DocumentScore, compare, score_documents, summarise


def evaluate(
    writer: Writer,
    documents: Sequence[Document],
    *,
    base: Writer | None = None,
    window: int = WINDOW,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a model, and the base it was tuned from, on the same documents.

    Args:
        writer: The model; its adapter is switched off for the base's figures.
        documents: The held-out documents.
        base: The base of a fully fine-tuned model, which has no adapter to switch off.
        window: Tokens of context at most.
        progress: Told (``base`` or ``tuned``, windows done, windows in all).

    Returns:
        The content of ``evaluation.json``.

    Raises:
        InputError: There is nothing to score.
    """
    documents = [document for document in documents if document.full_text().strip()]
    if not documents:
        raise InputError("there is no text to evaluate", "give files with text in them")

    def scores(of: Writer, name: str) -> list[DocumentScore]:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(name, done, total)

        return score_documents(of, documents, window=window, progress=tell)

    results: dict[str, list[DocumentScore]] = {}
    if writer.has_adapter:
        with writer.base():
            results["base"] = scores(writer, "base")
        results["tuned"] = scores(writer, "tuned")
    elif base is not None:
        results["base"] = scores(base, "base")
        results["tuned"] = scores(writer, "tuned")
    else:
        results["base"] = scores(writer, "base")
    domains: dict[str, Any] = {}
    for name in sorted({document.source for document in documents}):
        chosen = [index for index, document in enumerate(documents) if document.source == name]
        of_domain = {
            which: [values[index] for index in chosen] for which, values in results.items()
        }
        domains[name] = {which: summarise(values) for which, values in of_domain.items()}
        if "tuned" in of_domain:
            domains[name]["difference"] = compare(of_domain["base"], of_domain["tuned"])
    return {
        "models": _models(writer, base, list(results)),
        "window": min(window, writer.window),
        "precision": writer.device.precision,
        "domains": domains,
        "macro_perplexity": {which: _macro(domains, which) for which in results},
    }


def _models(writer: Writer, base: Writer | None, which: list[str]) -> list[dict[str, Any]]:
    models = [{"role": "base", "name": writer.base_name, "revision": writer.revision}]
    if "tuned" in which:
        models.append({"role": "tuned", "name": writer.name, "adapter": writer.adapter})
    return models


def _macro(domains: dict[str, Any], which: str) -> float:
    """Exp of the mean of the domains' losses: every domain counts the same."""
    losses = [
        entry[which]["nll_sum"] / max(entry[which]["tokens"], 1) for entry in domains.values()
    ]
    return math.exp(min(sum(losses) / len(losses), 700.0))


def rows(evaluation: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of an evaluation: headings and rows of text."""
    tuned = "tuned" in evaluation["macro_perplexity"]
    heads = ["domain", "docs", "tokens", "base ppl", "base bits/byte"]
    if tuned:
        heads = [*heads, "tuned ppl", "tuned bits/byte", "nats/token", "95 %"]
    table = []
    for name, entry in evaluation["domains"].items():
        first = entry["base"]
        row = [name, f"{first['documents']:,}", f"{first['tokens']:,}"]
        row += [f"{first['perplexity']:.2f}", f"{first['bits_per_byte']:.3f}"]
        if tuned:
            second, change = entry["tuned"], entry["difference"]
            interval = change["ci95"]
            row += [f"{second['perplexity']:.2f}", f"{second['bits_per_byte']:.3f}"]
            row.append(f"{change['nats_per_token']:+.3f}")
            row.append(f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else "")
        table.append(row)
    macro = evaluation["macro_perplexity"]
    if len(table) > 1:
        row = ["mean of domains", "", "", f"{macro['base']:.2f}", ""]
        table.append([*row, f"{macro['tuned']:.2f}", "", "", ""] if tuned else row)
    return heads, table


def as_markdown(evaluation: dict[str, Any]) -> str:
    """``evaluation.md``."""
    heads, table = rows(evaluation)
    window, precision = evaluation["window"], evaluation["precision"]
    lines = ["# Evaluation", ""]
    for model in evaluation["models"]:
        lines.append(f"- {model['role']}: `{model['name']}`")
    lines += ["", "| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines += [
        "",
        f"Perplexity is exp(nats / tokens) over windows of {window} tokens that start after an "
        "end-of-text token, each token scored once; bits per byte is over the UTF-8 bytes of the "
        "text. Nats/token is tuned minus base on the same documents (below 0 is better), with a "
        "95 % interval from a paired bootstrap over groups of documents. The mean of domains is "
        f"exp of the mean of their losses. Precision {precision}.",
        "",
    ]
    return "\n".join(lines)


def write_report(evaluation: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``evaluation.json`` and ``evaluation.md`` into a folder and name them."""
    write_json(folder / "evaluation.json", evaluation)
    write_text(folder / "evaluation.md", as_markdown(evaluation))
    return [folder / "evaluation.json", folder / "evaluation.md"]
