"""Packed weights in the cache: the same to the bit as those made anew, and never stale."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from creativewritinggpt.config.run import Config
from creativewritinggpt.devices import choose
from creativewritinggpt.files import cache_folder
from creativewritinggpt.generation.style import set_strength
from creativewritinggpt.models.adapter import attach, save_model
from creativewritinggpt.models.forward import packed
from creativewritinggpt.models.forward.backends import backend_for
from creativewritinggpt.models.forward.families import FAMILIES
from creativewritinggpt.models.forward.onnx_int8 import onnx_available
from creativewritinggpt.models.loading import load_base, load_model

pytestmark = pytest.mark.skipif(not onnx_available(), reason="onnxruntime is not installed")

CPU = choose("cpu", "fp32", 1)
IDS = [5, 17, 200, 3, 99, 350, 42, 7]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CWGPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def saved(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Callable[[str], Path]:
    """A factory of model folders with heads of 16, as onnxruntime wants them."""

    def make(family: str) -> Path:
        heads = {"n_head": 2} if family == "gpt2" else {"num_attention_heads": 2}
        more = {} if family == "gpt2" else {"num_key_value_heads": 1}
        tiny_model(family, **heads, **more).save_pretrained(tmp_path / family)
        tiny_tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return make


@pytest.fixture
def folder(saved: Callable[[str], Path]) -> Path:
    return saved("llama")


def entries() -> list[Path]:
    return sorted(cache_folder().glob("packed/*/*/layout.json"))


def logits(folder: Path, strength: float = 1.0) -> torch.Tensor:
    model = load_model(str(folder), CPU)
    if model.has_adapter:
        set_strength(model, strength)
    return backend_for(model, "onnx").read(IDS, 20)[1][0]


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    model = load_base(str(folder), CPU)
    attach(model, Config(lora_r=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.model.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    save_model(model, tmp_path / "adapter", {}, "")
    return tmp_path / "adapter"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_read_equals_what_was_made(
    saved: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(family)
    made = logits(folder)
    assert len(entries()) == 1

    def fail(*_: Any) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(FAMILIES[family], "__init__", fail)
    assert torch.equal(logits(folder), made)
    assert len(entries()) == 1


def test_each_strength_of_an_adapter_is_an_entry(folder: Path, adapter: Path) -> None:
    full, half, none = (logits(adapter, strength) for strength in (1.0, 0.5, 0.0))
    assert len(entries()) == 3
    assert not torch.equal(full, half)
    assert torch.equal(none, logits(folder))
    for strength, before in ((1.0, full), (0.5, half)):
        assert torch.equal(logits(adapter, strength), before)


def test_changed_files_are_packed_anew(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = logits(folder)
    path = folder / "model.safetensors"
    tensors = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    after = logits(folder)
    assert not torch.equal(before, after)
    assert len(entries()) == 2


def test_a_weight_that_is_no_number_is_still_found(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    logits(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(Exception, match="not numbers"):
        logits(folder)


@pytest.mark.parametrize("kind", ["bit", "short", "layout", "missing"])
def test_a_damaged_entry_is_made_again(folder: Path, kind: str) -> None:
    before = logits(folder)
    layout = entries()[0]
    weights = layout.with_name("weights.safetensors")
    whole = weights.read_bytes()
    if kind == "bit":
        weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    elif kind == "short":
        weights.write_bytes(whole[: len(whole) // 2])
    elif kind == "layout":
        layout.write_text(json.dumps({"sha256": json.loads(layout.read_text())["sha256"]}))
    else:
        weights.unlink()
    assert torch.equal(logits(folder), before)
    assert weights.read_bytes() == whole


def test_other_code_packs_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits(folder)
    monkeypatch.setattr(packed, "code_version", lambda: "another")
    logits(folder)
    assert len(entries()) == 2


def test_the_least_recently_used_entries_go(
    folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits(folder)
    size = sum(file.stat().st_size for file in entries()[0].parent.iterdir())
    oldest = entries()[0].parent
    os.utime(oldest, (1, 1))
    killed = cache_folder() / "packed" / "of-another-model" / ".entry.new.abcd1234"
    killed.mkdir(parents=True)
    monkeypatch.setattr(packed, "MOST_BYTES", int(size * 2.5))
    logits(adapter, 1.0)
    assert oldest.is_dir() and not killed.exists()
    os.utime(oldest, (1, 1))
    logits(adapter, 0.5)
    assert not oldest.exists()
    assert len(entries()) == 2


def test_a_cache_that_cant_be_written_costs_nothing_but_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = logits(folder)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CWGPT_CACHE", str(tmp_path / "file"))
    assert torch.equal(logits(folder), before)


def test_the_base_beside_its_adapter(adapter: Path) -> None:
    model = load_model(str(adapter), CPU)
    tuned = backend_for(model, "onnx").read(IDS, 20)[1][0]
    with model.base():
        base = backend_for(model, "onnx").read(IDS, 20)[1][0]
    assert not torch.equal(tuned, base)
    assert torch.equal(base, logits(adapter, 0.0))
