"""Writers and rows for tests of what is built on the models and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from corpora import TEXT

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


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 384 tokens; ``<|endoftext|>`` is 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
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
