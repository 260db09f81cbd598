"""``evaluation.jsonl``: what each model made of each document, so that any figure can be remade.

One line a document: its domain, group, title, SHA-1, words and bytes, and for each model its
tokens, nats, nats of the end of the text, and how it was read. Results of an earlier evaluation can
be set beside those of a new one, as long as both are of the same documents, read through the same
windows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.document import Document
from ...errors import InputError
from ...files import write_text
from ..scoring.documents import DocumentScore
from ..settings import EvaluationSettings

FILE = "evaluation.jsonl"
_SHARED = ("source", "group", "title", "digest", "words", "bytes")
_OWN = ("tokens", "nll", "eos_nll", "sliding_nll", "legacy_nll", "window", "stride")

Scores = Mapping[str, Sequence[DocumentScore]]


def write_scores(path: Path, scores: Scores) -> None:
    """Write the scores of some models, all of the same documents in the same order."""
    models = list(scores)
    lines = []
    for row in zip(*scores.values(), strict=True):
        shared: dict[str, Any] = {name: getattr(row[0], name) for name in _SHARED}
        shared["models"] = {
            model: {name: getattr(score, name) for name in _OWN if getattr(score, name) is not None}
            for model, score in zip(models, row, strict=True)
        }
        lines.append(json.dumps(shared, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_scores(path: Path) -> dict[str, list[DocumentScore]]:
    """The scores of an earlier evaluation, by model.

    Raises:
        InputError: There is no such file, or it is not one of ours.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}", "give the evaluation.jsonl of an evaluation")
    result: dict[str, list[DocumentScore]] = {}
    try:
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            shared = {name: row[name] for name in _SHARED}
            for model, own in row["models"].items():
                result.setdefault(model, []).append(DocumentScore(**shared, **own))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not the record of an evaluation", "give the evaluation.jsonl of one"
        ) from error
    if not result or len({len(scores) for scores in result.values()}) > 1:
        raise InputError(f"{path} holds no scores that belong together")
    return result


def same_documents(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Refuse results of different documents.

    Args:
        found: SHA-1 of the documents of the earlier result, in order.
        wanted: SHA-1 of those that are evaluated.
        where: What the earlier result is called.

    Raises:
        InputError: Naming how many documents differ.
    """
    if list(found) == list(wanted):
        return
    missing = len(set(found) ^ set(wanted))
    raise InputError(
        f"{where} is of other documents: {missing} stand on one side only"
        if missing
        else f"{where} has the documents in another order",
        "evaluate both on the same files, with the same --max-documents",
    )


def same_windows(scores: Sequence[DocumentScore], wanted: EvaluationSettings, where: str) -> None:
    """Refuse results of other windows: more context alone makes a loss lower.

    Args:
        scores: The earlier result; records of old don't say how they were made, and pass.
        wanted: How documents are scored now.
        where: What the earlier result is called.

    Raises:
        InputError: Naming what differs.
    """
    for score in scores:
        for name in ("window", "stride"):
            had, has = getattr(score, name), getattr(wanted, name)
            if None not in (had, has) and had != has:
                raise InputError(
                    f"{where} was made with a {name} of {had} tokens, and not {has}",
                    f"give --{name} {had}",
                )


def under_names_of(
    documents: Sequence[Document], scores: Sequence[DocumentScore]
) -> list[DocumentScore]:
    """Earlier scores under the domains and groups that the same documents have now."""
    return [
        dataclasses.replace(score, source=document.source, group=document.group)
        for score, document in zip(scores, documents, strict=True)
    ]
