"""Readings of long texts in the cache: the same numbers to the bit, never stale or in the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from creativewritinggpt.devices import choose
from creativewritinggpt.files import cache_folder
from creativewritinggpt.models.forward import readings
from creativewritinggpt.models.forward.backends import backend_for, kept_backends, store_readings
from creativewritinggpt.models.forward.native_backend import BLOCK, NativeBackend
from creativewritinggpt.models.forward.onnx_int8 import onnx_available
from creativewritinggpt.models.loading import load_model

CPU = choose("cpu", "fp32", 1)
KINDS = ["fp32", pytest.param("onnx", marks=pytest.mark.skipif(not onnx_available(), reason="no"))]
LEAST = 2 * BLOCK
TEXT = [(7 * i + i // 13) % 57 + 5 for i in range(LEAST + 100)]


@pytest.fixture(autouse=True)
def _short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CWGPT_CACHE", str(tmp_path / "cache"))
    for module in ("readings", "native_backend"):
        name = f"creativewritinggpt.models.forward.{module}.LEAST_TOKENS"
        monkeypatch.setattr(name, LEAST)


@pytest.fixture
def folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    made = tiny_model(
        "llama", num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024
    )
    made.save_pretrained(tmp_path / "llama")
    tiny_tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def opened(folder: Path, kind: str = "fp32") -> tuple[Any, NativeBackend]:
    """A model as a new process opens it, and its forward pass."""
    kept_backends.clear()
    model = load_model(str(folder), CPU)
    backend = backend_for(model, kind)
    assert isinstance(backend, NativeBackend)
    return model, backend


def entries() -> list[Path]:
    return sorted(cache_folder().glob("readings/*/*/reading.safetensors"))


def counting(backend: NativeBackend) -> list[int]:
    """The numbers of tokens that the backend reads from now on."""
    read: list[int] = []
    hidden: Callable[..., Any] = backend.forward.hidden
    bind = None if backend.onnx is None else backend.onnx.bind

    def watched(ids: Any, *rest: Any) -> Any:
        read.append(ids.numel())
        return hidden(ids, *rest)

    def bound(entries: Any) -> Any:
        assert bind is not None
        work = bind(entries)

        def step(tokens: Any, lengths: Any) -> Any:
            read.append(tokens.numel())
            return work(tokens, lengths)

        return step

    backend.forward.hidden = watched  # type: ignore[method-assign]
    if backend.onnx is not None:
        backend.onnx.bind = bound  # type: ignore[method-assign]
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [[], [9, 8, 7], [i % 57 + 5 for i in range(BLOCK)]])
def test_what_is_read_back_goes_on_with_the_same_numbers(
    folder: Path, kind: str, more: list[int]
) -> None:
    _, backend = opened(folder, kind)
    _, last = backend.read(TEXT, 1024)
    _, wanted = opened(folder, kind)[1].read([*TEXT, *more], 1024)
    assert not more or not torch.equal(last, wanted)
    _, backend = opened(folder, kind)
    backend.read(TEXT, 1024)
    assert store_readings() == 1
    _, backend = opened(folder, kind)
    read = counting(backend)
    context, found = backend.read([*TEXT, *more], 1024)
    assert torch.equal(found, wanted)
    held = len(TEXT) if not more else len(TEXT) // BLOCK * BLOCK
    assert sum(read) == len(TEXT) + len(more) - held
    # What is written after it is the same, too.
    other, _ = opened(folder, kind)[1].read([*TEXT, *more], 1024)
    assert torch.equal(context.step([11]), other.step([11]))


def test_a_text_that_differs_early_is_read_anew(folder: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    store_readings()
    changed = [*TEXT[:100], 3, *TEXT[101:]]
    _, backend = opened(folder)
    read = counting(backend)
    backend.read(changed, 1024)
    assert sum(read) == len(TEXT)


def test_other_owners_do_not_share_it(folder: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    store_readings()
    _, backend = opened(folder)
    context, logits = backend.begin(TEXT, 1024, "somebody")
    assert context.lengths == [0] and logits is None


@pytest.mark.parametrize("damage", ["cut", "bit", "record", "tokens", "gone"])
def test_a_damaged_entry_is_ignored(folder: Path, damage: str) -> None:
    _, backend = opened(folder)
    _, wanted = backend.read(TEXT, 1024)
    store_readings()
    (path,) = entries()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "record":
        (path.parent / "reading.json").write_text("{", encoding="utf-8")
    elif damage == "tokens":
        (path.parent / "tokens.npy").write_bytes(b"no array")
    else:
        path.unlink()
    _, backend = opened(folder)
    _, found = backend.read(TEXT, 1024)
    assert torch.equal(found, wanted)
    # It is written anew, and then it serves.
    assert store_readings() == 1
    _, backend = opened(folder)
    read = counting(backend)
    assert torch.equal(backend.read(TEXT, 1024)[1], wanted)
    assert not read


def test_other_weights_do_not_find_it(folder: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    store_readings()
    model = load_model(str(folder), CPU).model
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    model.save_pretrained(folder)
    _, backend = opened(folder)
    read = counting(backend)
    backend.read(TEXT, 1024)
    assert sum(read) == len(TEXT)


def test_a_story_that_grew_takes_the_place_of_its_beginning(folder: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    assert store_readings() == 1
    assert store_readings() == 0  # it is there
    backend.read([*TEXT, 1, 2, 3], 1024)
    assert store_readings() == 1
    assert len(entries()) == 1


def test_all_together_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = cache_folder() / "readings" / "of-another-model" / ".entry.new.abcd1234"
    killed.mkdir(parents=True)
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    store_readings()
    assert not killed.exists()
    size = sum(file.stat().st_size for file in entries()[0].parent.iterdir())
    monkeypatch.setattr(readings, "MOST_BYTES", int(2.5 * size))
    for first in (1, 2, 3):
        backend.read([first, *TEXT], 1024)
        store_readings()
    assert len(entries()) == 2
    monkeypatch.setattr(readings, "MOST_BYTES", size)
    backend.read([4, *TEXT], 1024)
    assert store_readings() == 0  # one alone may take half of it


def test_a_disk_that_takes_nothing_is_no_error(folder: Path, tmp_path: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT, 1024)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    assert store_readings() == 0


def test_short_texts_are_not_kept(folder: Path) -> None:
    _, backend = opened(folder)
    backend.read(TEXT[: LEAST - 1], 1024)
    assert store_readings() == 0 and not entries()
