"""Report on a corpus before training: sizes, splits, mixture and example rows.

The numbers come from the documents, ids and rows that a run with the same settings gets.
"""

from __future__ import annotations

import itertools
import operator
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..console import ProgressCallback, counted, printable
from .corpus import Corpus
from .document import SourceReport
from .mixing import mix
from .rows.packing import IGNORE, PackedRows, RowPlan, plan_rows, tokenize
from .store import sources_of
from .text import count_words

_EXAMPLES = 3
_SHOWN = 700
_BARS = "▁▂▃▄▅▆▇█"
_BINS = 12
_MASKED, _END, _PADDING = ("⟦", "⟧"), "<end>", "·"


def inspect_corpus(
    corpus: Corpus,
    tokenizer: Any | None,
    *,
    max_length: int,
    mask_prompt: bool = False,
    weights: dict[str, float] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Describe a corpus as a run with these settings would read it.

    Without a tokenizer lengths are in words and nothing is said of rows.

    Returns:
        ``sources`` (by name: documents, words, tokens, dropped, duplicates, split, length, ...),
        ``documents``, ``words``, ``tokens``, ``unit`` of the lengths, ``mixture``, ``rows`` and
        ``examples``.
    """
    names = np.array([*sources_of(corpus.train), *sources_of(corpus.validation)])
    mixture: dict[str, Any] | None = None
    rows: dict[str, Any] | None = None
    examples: list[dict[str, Any]] = []
    if tokenizer is None:
        documents = (*corpus.train, *corpus.validation)
        lengths = np.array([count_words(d.full_text()) for d in documents], dtype=np.int64)
    else:
        train = tokenize(corpus.train, tokenizer, cache, progress)
        held = tokenize(corpus.validation, tokenizer, cache, progress)
        lengths = np.concatenate([train.lengths(), held.lengths()])
        chosen = mix(
            sources_of(corpus.train), train.lengths(), weights, max_length=max_length, seed=seed
        )
        mixture = chosen.to_dict()
        shape: dict[str, Any] = {
            "max_length": max_length,
            "bos_id": _end_id(tokenizer),
            "eos_id": _end_id(tokenizer),
            "mask_prompt": mask_prompt,
            "seed": seed,
        }
        plan = plan_rows(train, **shape, documents=chosen.documents)
        trained = int(plan.target_counts().sum())
        rows = {
            "count": len(plan),
            "length": max_length,
            "filled": plan.filled,
            "trained_tokens": trained,
        }
        names_of = sources_of(corpus.train)
        examples = _examples(plan.take(_example_rows(plan, names_of)), tokenizer, names_of)
    sources = {
        name: _source(report, lengths[names == name], tokenizer is not None)
        for name, report in corpus.reports.items()
    }
    return {
        "sources": sources,
        "documents": sum(source["documents"] for source in sources.values()),
        "words": sum(source["words"] for source in sources.values()),
        "tokens": None if tokenizer is None else int(lengths.sum()),
        "unit": "words" if tokenizer is None else "tokens",
        "missing": dict(corpus.missing),
        "mixture": mixture,
        "rows": rows,
        "examples": examples,
    }


def _end_id(tokenizer: Any) -> int:
    """The id that ends a text, or 0 for a tokenizer without one: it is only looked at here."""
    return int(tokenizer.eos_token_id or 0)


def _source(report: SourceReport, lengths: npt.NDArray[np.int64], tokens: bool) -> dict[str, Any]:
    edges = [0]
    counts: list[int] = []
    if len(lengths):
        # Equal steps on a logarithmic scale, since lengths differ by orders of magnitude.
        low, high = max(1, int(lengths.min())), int(lengths.max()) + 1
        edges = np.unique(np.geomspace(low, max(high, low + 1), _BINS + 1).astype(int)).tolist()
        edges[0] = min(edges[0], int(lengths.min()))
        edges[-1] = max(edges[-1], high)
        counts = np.histogram(lengths, bins=edges)[0].tolist()
    record = report.to_dict()
    del record["name"]
    split = {side: record.pop(side) for side in ("train", "validation")}
    spread = np.percentile(lengths, [0, 50, 95, 100]) if len(lengths) else np.zeros(4)
    return {
        **record,
        "tokens": int(lengths.sum()) if tokens else None,
        "split": split,
        "length": dict(zip(("min", "median", "p95", "max"), map(int, spread), strict=True)),
        "histogram": {"edges": edges, "counts": counts},
    }


def _example_rows(plan: RowPlan, sources: Sequence[str]) -> list[int]:
    """A row in which a document begins, of as many sources as there are examples."""
    found: dict[str, int] = {}
    for chunk in np.flatnonzero(plan.starts == 0).tolist():
        row = int(np.searchsorted(plan.first_chunk, chunk, side="right")) - 1
        found.setdefault(sources[int(plan.documents[chunk])], row)
        if len(found) == _EXAMPLES:
            break
    rows = list(dict.fromkeys(found.values()))
    return rows or list(range(min(_EXAMPLES, len(plan))))


def _examples(rows: PackedRows, tokenizer: Any, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Some rows as chunks of text that are trained or masked, as the arrays say."""
    made = []
    for row in range(len(rows)):
        parts: list[dict[str, Any]] = []
        for segment in range(1, int(rows.segment_ids[row].max()) + 1):
            where = np.flatnonzero(rows.segment_ids[row] == segment)
            source = sources[int(rows.document_ids[row][where[0]])]
            parts.append({"source": source, "runs": _runs(rows, row, where, tokenizer)})
        made.append({"padding": int((rows.segment_ids[row] == 0).sum()), "pieces": parts})
    return made


def _runs(
    rows: PackedRows, row: int, where: npt.NDArray[np.int64], tokenizer: Any
) -> list[dict[str, Any]]:
    """The chunk's tokens after the first, grouped by whether they are trained on."""
    targets, read = rows.targets[row][where], rows.input_ids[row][where]
    trained = targets != IGNORE
    # What a masked position would have predicted is what the next one reads.
    following = np.append(read[1:], read[-1:])
    tokens = np.where(trained, targets, following)
    ends = bool(rows.is_eos[row][where[-1]])
    if ends:
        tokens, trained = tokens[:-1], trained[:-1]
    runs: list[dict[str, Any]] = []
    for known, group in itertools.groupby(
        zip(trained.tolist(), tokens.tolist(), strict=True), key=operator.itemgetter(0)
    ):
        text = tokenizer.decode([token for _, token in group], clean_up_tokenization_spaces=False)
        runs.append({"text": text, "trained": known})
    if ends:
        runs.append({"text": _END, "trained": True})
    return runs


def render(result: dict[str, Any], *, colour: bool, width: int | None = None) -> str:
    """The result of :func:`inspect_corpus` as text for a terminal.

    Args:
        result: The description.
        colour: Whether trained and masked tokens are also told apart by colour; they always are by
            the brackets around masked ones.
        width: Columns of the terminal, where it is one; longer lines are broken between words.
    """
    lines = [_size(result), ""]
    for name, source in result["sources"].items():
        lines += _source_lines(name, source, result["unit"])
    for name, reason in result["missing"].items():
        lines += [f"{name}: left out, since {reason}", ""]
    if result["mixture"]:
        lines.append("In an epoch")
        for name, share in result["mixture"].items():
            longer = f"; {share['cut']:,} longer than a row" if share["cut"] else ""
            passes = f"{share['epochs']:.2f} passes"
            lines.append(f"  {name}: {share['share']:.1%} of the tokens, {passes}{longer}")
    if result["rows"]:
        rows = result["rows"]
        lines += [
            f"  {rows['count']:,} rows of {rows['length']} positions, {rows['filled']:.1%} filled, "
            f"{rows['trained_tokens']:,} tokens trained on",
            "",
        ]
    lines = [part for line in lines for part in _broken(line, width, "    ")]
    if result["examples"]:
        masked = f"{_MASKED[0]}read but not trained on{_MASKED[1]}"
        legend = f"Some rows ({masked}, {_END} = end of text, {_PADDING} = padding)"
        lines += _broken(legend, width)
        for number, example in enumerate(result["examples"], 1):
            lines += ["", f"row {number}", *_example_lines(example, colour, width)]
    return "\n".join(lines).rstrip() + "\n"


def _size(result: dict[str, Any]) -> str:
    names = ("document", "word", "token")
    counts = ((name, result[f"{name}s"]) for name in names)
    return ", ".join(counted(count, name) for name, count in counts if count is not None)


def _source_lines(name: str, source: dict[str, Any], unit: str) -> list[str]:
    split, length = source["split"], source["length"]
    lines = [
        f"{name}: {source['form']}",
        f"  {_size(source)}; {split['train']:,} to train on, {split['validation']:,} held out",
        f"  {unit} a document: {length['min']:,} to {length['max']:,}, "
        f"median {length['median']:,}, 95 % below {length['p95']:,}",
    ]
    counts, edges = source["histogram"]["counts"], source["histogram"]["edges"]
    if counts:
        most = max(counts)
        bars = "".join(
            _BARS[min(len(_BARS) - 1, (count * len(_BARS)) // (most + 1))] if count else " "
            for count in counts
        )
        lines.append(f"  {edges[0]:,} |{bars}| {edges[-1] - 1:,}")
    known = (
        "form", "dropped", "flagged", "duplicates", "near_duplicates", "notes", "files", "joints",
    )  # fmt: skip
    report = SourceReport.from_dict({"name": name, **{key: source[key] for key in known}})
    lines += report.details(files=True)
    return [*(printable(line) for line in lines), ""]


def _broken(line: str, width: int | None, indent: str = "") -> list[str]:
    """A line, wrapped to the width."""
    if width is None or len(line) <= width:
        return [line]
    lead = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, width, initial_indent="", subsequent_indent=lead + indent, break_on_hyphens=False
    )


def _example_lines(example: dict[str, Any], colour: bool, width: int | None) -> list[str]:
    lines: list[str] = []
    left = _SHOWN
    for piece in example["pieces"]:
        if left <= 0:
            lines.append("  …")
            break
        shown = ""
        for run in piece["runs"]:
            text = printable(run["text"])
            text = text if len(text) <= left else f"{text[:left]}…"
            left -= len(text)
            if width is not None:  # less the indent, the brackets and the mark of the end
                parts = (_broken(line, max(20, width - 9)) for line in text.split("\n"))
                text = "\n".join(part for line in parts for part in line)
            shown += _marked(text, run["trained"], colour)
            if left <= 0:
                break
        lines += [f"  [{piece['source']}]", textwrap.indent(shown, "  ")]
    if example["padding"]:
        lines.append(f"  {_PADDING * min(20, example['padding'])} {example['padding']} of padding")
    return lines


def _marked(text: str, trained: bool, colour: bool) -> str:
    marked = text if trained else f"{_MASKED[0]}{text}{_MASKED[1]}"
    if not colour:
        return marked
    code = "32" if trained else "2"
    # Each line by itself, so that what indents or cuts lines does not break the colour.
    return "\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else "" for line in marked.split("\n"))
