"""The documents of ``bench/train.py``: token ids with the lengths that real sources have.

    full    documents of 511 tokens, so that with its first token each fills a row of 512
    mixed   documents of the four sources as they come, short and long

Text is read by the project's own loaders: from the folder in ``CWGPT_REAL_DATA`` (samples of
WritingPrompts, ROCStories, WikiText and OpenWebText), else from the sample corpus of the package.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

ROW = 512
_REAL = (
    "writingprompts/hub_form.jsonl",
    "rocstories/hub_form.jsonl",
    "wikitext/validation.jsonl",
    "openwebtext/sample.jsonl",
)


def text_files() -> tuple[str, list[str]]:
    """What the text is, and its files."""
    real = os.environ.get("CWGPT_REAL_DATA")
    if real:
        return "samples of the four sources", [str(Path(real) / name) for name in _REAL]
    folder = Path(str(resources.files("creativewritinggpt.data") / "sample"))
    return "sample corpus", sorted(str(path) for path in folder.glob("*.jsonl"))


def read_documents(tokenizer: Any, count: int) -> dict[str, list[list[int]]]:
    """Documents to ``train`` on and others that are ``held_out``, without begin and end of text.

    Args:
        tokenizer: What makes ids of text.
        count: Tokens to train on, about.
    """
    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.corpus import read_documents as read

    documents = read(text_files()[1], Config())
    random.Random(0).shuffle(documents)
    train: list[list[int]] = []
    held_out: list[list[int]] = []
    for document in documents:
        ids = tokenizer(document.full_text(), add_special_tokens=False)["input_ids"]
        # The first of the shuffled documents are held out, the rest trained on.
        if sum(map(len, held_out)) < 8 * ROW:
            held_out.append(ids[: 2 * ROW])
            continue
        train.append(ids)
        if sum(map(len, train)) > 1.2 * count + ROW:
            break
    return {"train": train, "held_out": held_out}


def full_rows(documents: Sequence[Sequence[int]]) -> list[list[int]]:
    """The documents put end to end and cut into ones that fill a row each."""
    flat = [token for ids in documents for token in ids]
    size = ROW - 1
    return [flat[i : i + size] for i in range(0, len(flat) - size + 1, size)]


def as_tokens(documents: Sequence[Sequence[int]]) -> Any:
    """Documents as the data room hands them on."""
    from creativewritinggpt.data.rows.packing import TokenizedDocuments

    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])]).astype(np.int64)
    flat = np.array([token for ids in documents for token in ids], dtype=np.int32)
    return TokenizedDocuments(flat, offsets, np.zeros(len(documents), dtype=np.int32))
