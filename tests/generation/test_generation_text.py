"""Tokens to text: nothing incomplete is handed out, and all of it together is the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from creativewritinggpt.generation.row import characters
from creativewritinggpt.generation.text import TextOfTokens, Vocabulary, encode, vocabulary


def streamed(tokenizer: Any, ids: list[int], context: list[int]) -> list[str]:
    text = TextOfTokens(vocabulary(tokenizer), context)
    return [*(text.add(token) for token in ids), text.end()]


@given(st.text(max_size=40))
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_streamed_pieces_join_to_the_text(tiny_tokenizer: Any, text: str) -> None:
    ids = encode(tiny_tokenizer, text)
    pieces = streamed(tiny_tokenizer, ids, [])
    assert "".join(pieces) == tiny_tokenizer.decode(ids) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 383), max_size=30))
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tokens_join_to_what_the_tokenizer_decodes(tiny_tokenizer: Any, ids: list[int]) -> None:
    pieces = streamed(tiny_tokenizer, ids, [])
    assert "".join(pieces) == tiny_tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_comes_whole(tiny_tokenizer: Any) -> None:
    ids = encode(tiny_tokenizer, "😀é")
    assert len(ids) > 2
    assert [piece for piece in streamed(tiny_tokenizer, ids, []) if piece] == ["😀", "é"]


def test_special_tokens_are_no_text_but_have_a_name(tiny_tokenizer: Any) -> None:
    words = Vocabulary(tiny_tokenizer)
    assert words.bytes_of(0) == b"" and words.shown(0) == "<|endoftext|>"
    assert encode(tiny_tokenizer, "<|endoftext|>") != [0]


@pytest.fixture(scope="module")
def word_tokenizer() -> Any:
    """A tokenizer like that of the first Llama models: words with a mark for the space, bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "▁a", "▁b", "ab", "▁ab"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("text", ["ab ab a b", "a é b", "ab 😀😀 ab " * 9, " a"])
def test_tokenizers_that_are_not_byte_level_keep_spaces_and_characters(
    word_tokenizer: Any, text: str
) -> None:
    ids = encode(word_tokenizer, "ab " + text)
    split = len(encode(word_tokenizer, "ab"))
    pieces = streamed(word_tokenizer, ids[split:], ids[:split])
    assert "ab" + "".join(pieces) == word_tokenizer.decode(ids)
    assert all("\ufffd" not in piece for piece in pieces)
    words = Vocabulary(word_tokenizer)
    whole = b"".join(words.bytes_of(token) for token in ids).decode()
    assert whole == " " + word_tokenizer.decode(ids)
    assert characters(ids, words) == len("ab " + text)
