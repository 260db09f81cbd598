from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from creativewritinggpt.data.rows.tokens import Encoder, definition_of

TEXT = (
    "The lamp went out, and the captain’s dog laughed — “Who is there?” she asked. Don't I'll  "
    "we've 3,000 fathoms; naïve café, 1999…\n\n* * *\n\nOnce upon a time  a king had $5.20!\n"
)
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def trained(kind: str) -> Any:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = byte_level
    elif kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        )
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        tokenizer.normalizer = normalizers.NFC()
        pattern = Regex(QWEN if kind == "qwen" else LLAMA)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 6, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


KINDS = ("gpt2", "smollm", "qwen", "llama")
TOKENIZERS = {kind: trained(kind) for kind in (*KINDS, "metaspace")}
parts = st.one_of(
    st.sampled_from("aZéŒ09 \n'’“”—…,.!-_stdrvelm$<|>€½²Ⅷ一\t\u00a0жΩ٣👻\u0301"),
    st.sampled_from(["'s", "'LL", "  ", "\n\n", " 12", "’s", "<|endoftext|>", " \n "]),
    st.characters(codec="utf-8"),
)
texts = st.lists(parts, max_size=30).map("".join)


def usual(tokenizer: Any, text: str) -> list[int]:
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    ids: list[int] = plain.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("kind", [*KINDS, "metaspace"])
@settings(deadline=None, max_examples=150)
@given(given_texts=st.lists(texts, min_size=1, max_size=5))
def test_ids_are_those_of_the_tokenizer(kind: str, given_texts: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    found = Encoder(definition_of(tokenizer)).encode([*given_texts, TEXT])
    assert [ids.tolist() for ids in found] == [usual(tokenizer, t) for t in [*given_texts, TEXT]]


def test_an_added_token_that_is_not_special_is_recognised_as_the_tokenizer_does() -> None:
    tokenizer = trained("gpt2")
    tokenizer.add_tokens(["<scene break>"])
    found = Encoder(definition_of(tokenizer)).encode(["out <scene break> in"])[0].tolist()
    assert found == usual(tokenizer, "out <scene break> in")
    assert tokenizer.convert_tokens_to_ids("<scene break>") in found
