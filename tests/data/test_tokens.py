from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from creativewritinggpt.data.document import Document
from creativewritinggpt.data.rows.packing import Encoder, encode, tokenize
from creativewritinggpt.errors import RunError


def documents() -> list[Document]:
    return [
        Document("a", "1", "The lamp went out."),
        Document("a", "2", "Nobody answered; only the sea.", prompt="Who is there?"),
        Document("b", "3", "She said <|endoftext|> and laughed."),
        Document("b", "4", "żółw 3,000 “fathoms” 🙂\nand a line"),
    ]


def test_ids_decode_to_the_full_text(tiny_tokenizer: Any) -> None:
    tokens = tokenize(documents(), tiny_tokenizer, None)
    assert len(tokens) == 4
    for number, document in enumerate(documents()):
        assert tiny_tokenizer.decode(tokens[number]) == document.full_text()


def test_special_tokens_in_a_text_are_plain_characters(tiny_tokenizer: Any) -> None:
    tokens = tokenize(documents(), tiny_tokenizer, None)
    assert tiny_tokenizer.eos_token_id not in tokens.ids
    assert encode(tiny_tokenizer, "<|endoftext|>") != [tiny_tokenizer.eos_token_id]


def test_prompt_lengths_cover_the_prompt_and_the_empty_line(tiny_tokenizer: Any) -> None:
    tokens = tokenize(documents(), tiny_tokenizer, None)
    assert tokens.prompt_lengths.tolist()[0] == 0
    prompt = tokens[1][: tokens.prompt_lengths[1]]
    assert tiny_tokenizer.decode(prompt) == "Who is there?\n\n"


def test_the_cache_gives_the_same_ids_from_a_memory_map(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    plain = tokenize(documents(), tiny_tokenizer, None)
    first = tokenize(documents(), tiny_tokenizer, tmp_path)
    again = tokenize(documents(), tiny_tokenizer, tmp_path)
    for tokens in (first, again):
        assert isinstance(tokens.ids, np.memmap)
        assert (tokens.ids == plain.ids).all() and (tokens.offsets == plain.offsets).all()
        assert (tokens.prompt_lengths == plain.prompt_lengths).all()
    assert len([entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]) == 1


@pytest.mark.parametrize("change", ["text", "prompt", "order", "tokenizer"])
def test_the_cache_is_never_stale(change: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    tokenize(documents(), tiny_tokenizer, tmp_path)
    changed, tokenizer = documents(), tiny_tokenizer
    if change == "text":
        changed[0] = Document("a", "1", "The lamp went on.")
    elif change == "prompt":
        changed[0] = Document("a", "1", "The lamp went out.", prompt="Why?")
    elif change == "order":
        changed.reverse()
    else:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
        tokenizer.add_tokens(["lamp"])
    found = tokenize(changed, tokenizer, tmp_path)
    assert (found.ids.tolist()) == tokenize(changed, tokenizer, None).ids.tolist()
    assert len([entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]) == 2


def test_a_damaged_entry_is_made_again(tiny_tokenizer: Any, tmp_path: Path) -> None:
    good = tokenize(documents(), tiny_tokenizer, tmp_path).ids.tolist()
    entry = next(entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir())
    (entry / "ids.bin").write_bytes((entry / "ids.bin").read_bytes()[:-10])
    assert tokenize(documents(), tiny_tokenizer, tmp_path).ids.tolist() == good


def test_two_threads_that_want_one_entry_make_it_once(tiny_tokenizer: Any, tmp_path: Path) -> None:
    made: list[int] = []
    results: list[list[int]] = []

    def work() -> None:
        tokens = tokenize(
            documents() * 50, tiny_tokenizer, tmp_path, lambda *what: made.append(what[1])
        )
        results.append(tokens.ids.tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [200] and all(result == results[0] for result in results)


def _tokenize_elsewhere(folder: Path, cache: Path, queue: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    queue.put(tokenize(documents() * 50, tokenizer, cache).ids.tolist())


def test_two_processes_at_once_are_safe(tiny_tokenizer: Any, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(
            target=_tokenize_elsewhere, args=(tmp_path / "tokenizer", tmp_path / "cache", queue)
        )
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert results[0] == results[1] == tokenize(documents() * 50, tiny_tokenizer, None).ids.tolist()


def test_a_full_disk_is_said_and_leaves_no_entry(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunError, match="disk is full"):
        tokenize(documents(), tiny_tokenizer, tmp_path)
    assert not [entry for entry in (tmp_path / "tokens").iterdir() if entry.is_dir()]


def test_documents_without_text_have_no_ids(tiny_tokenizer: Any) -> None:
    tokens = tokenize([Document("a", "1", ""), Document("a", "2", "x")], tiny_tokenizer, None)
    assert tokens.lengths().tolist() == [0, 1]
    assert tokenize([], tiny_tokenizer, None).lengths().tolist() == []


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
    found = Encoder(tokenizer).encode([*given_texts, TEXT])
    assert [ids.tolist() for ids in found] == [usual(tokenizer, t) for t in [*given_texts, TEXT]]


def test_an_added_token_that_is_not_special_is_recognised_as_the_tokenizer_does() -> None:
    tokenizer = trained("gpt2")
    tokenizer.add_tokens(["<scene break>"])
    found = Encoder(tokenizer).encode(["out <scene break> in"])[0].tolist()
    assert found == usual(tokenizer, "out <scene break> in")
    assert tokenizer.convert_tokens_to_ids("<scene break>") in found


def test_a_flipped_bit_in_the_cache_is_found_and_the_entry_made_again(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    whole = tokenize(documents(), tiny_tokenizer, tmp_path).ids.tolist()
    [path] = tmp_path.glob("tokens/*/ids.bin")
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert tokenize(documents(), tiny_tokenizer, tmp_path).ids.tolist() == whole
