"""Writers and rows for tests of what is built on the models and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from creativewritinggpt.data.rows.packing import RowPlan, TokenizedDocuments, plan_rows
from creativewritinggpt.devices import DeviceChoice
from creativewritinggpt.models.loaded_model import LoadedModel


def make_writer(model: Any, tokenizer: Any = None, precision: str = "fp32") -> LoadedModel:
    """A writer around a tiny model."""
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=DeviceChoice("cpu", precision, 1, {}),
        name="tiny",
        base_name="tiny",
        kind="folder",
        revision=None,
        adapter=None,
        run=None,
        bos_id=0,
        eos_id=0,
        context_length=128,
    )


def as_tokens(documents: Sequence[Sequence[int]]) -> TokenizedDocuments:
    """Token ids as the data room hands them on."""
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])]).astype(np.int64)
    flat = [token for ids in documents for token in ids]
    return TokenizedDocuments(
        np.array(flat, dtype=np.int32), offsets, np.zeros(len(documents), dtype=np.int32)
    )


def random_rows(
    count: int = 12, max_length: int = 32, vocabulary: int = 384, seed: int = 0
) -> RowPlan:
    """Rows of random documents of very unequal length."""
    generator = np.random.default_rng(seed)
    documents = [
        generator.integers(1, vocabulary, size=int(generator.integers(1, 70))).tolist()
        for _ in range(count)
    ]
    return plan_rows(as_tokens(documents), max_length=max_length, bos_id=0, eos_id=0)
