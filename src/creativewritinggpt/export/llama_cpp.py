"""llama.cpp asked about a file: token ids, logits and a greedy continuation.

llama.cpp comes with xllamacpp, as a server in this machine's memory and on its loopback address.
It runs in a process of its own, since it ends its process where it finds a file wrong, and prints
to the terminal as it likes. ``python -m creativewritinggpt.export.llama_cpp JOB`` is that process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json

_TIMEOUT = 1800.0
_UNAVAILABLE = 3  # exit code of a process in which llama.cpp can't be used at all


class Unavailable(Exception):
    """llama.cpp can't be used here, whatever the file; says why."""


class Refused(Exception):
    """llama.cpp does not run the file; says what it said."""


def is_installed() -> bool:
    """Whether xllamacpp is there."""
    return importlib.util.find_spec("xllamacpp") is not None


def version() -> str:
    """Version of xllamacpp, whose last part is the build of llama.cpp."""
    import importlib.metadata

    return importlib.metadata.version("xllamacpp")


class Answers:
    """What llama.cpp said of a file.

    Attributes:
        tokens: Token ids of each text, as its tokenizer cuts them with what it adds.
        log_probabilities: ``[scales, positions, vocabulary]`` float32: of the next token after each
            of the positions asked for, for each scale of the adapter.
        greedy: The tokens that greedy writing adds after the ids.
    """

    def __init__(
        self, tokens: list[list[int]], log_probabilities: np.ndarray, greedy: list[int]
    ) -> None:
        self.tokens = tokens
        self.log_probabilities = log_probabilities
        self.greedy = greedy


def ask(
    model: Path,
    texts: Sequence[str],
    ids: Sequence[int],
    positions: int,
    *,
    vocabulary: int,
    filler: int,
    greedy: int = 0,
    adapter: Path | None = None,
    scales: Sequence[float] = (1.0,),
    threads: int = 1,
) -> Answers:
    """Run llama.cpp on a file, in a process of its own.

    Args:
        model: The GGUF file.
        texts: Texts to cut into tokens.
        ids: Token ids that are read.
        positions: Number of first tokens of ``ids`` after each of which logits are wanted.
        vocabulary: Number of tokens of the model.
        filler: A token of whole characters.
        greedy: Number of tokens to write after ``ids``.
        adapter: A LoRA GGUF on top.
        scales: Scales of the adapter to ask logits for; greedy writing takes the first.
        threads: Processor threads.

    Raises:
        Unavailable: llama.cpp can't be used here.
        Refused: It could not load the file, or ended.
    """
    with tempfile.TemporaryDirectory(prefix="cwgpt-llama-", ignore_cleanup_errors=True) as scratch:
        job, result = Path(scratch) / "job.json", Path(scratch) / "result.npz"
        request = {
            "model": str(Path(model).resolve()),
            "texts": list(texts),
            "ids": list(map(int, ids)),
            "positions": positions,
            "vocabulary": vocabulary,
            "filler": filler,
            "greedy": greedy,
            "adapter": None if adapter is None else str(Path(adapter).resolve()),
            "scales": list(scales),
            "threads": threads,
            "result": str(result),
        }
        job.write_text(json.dumps(request), "utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "creativewritinggpt.export.llama_cpp", str(job)],
                # Elsewhere a file of the user's, named as a module is, would be taken for it.
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"it took longer than {_TIMEOUT / 60:.0f} minutes") from error
        if done.returncode in (_UNAVAILABLE, -signal.SIGILL):
            said = done.stderr.decode("utf-8", "replace")
            raise Unavailable(f"xllamacpp does not run here: {_reason(said, done.returncode)}")
        if done.returncode != 0 or not result.is_file():
            said = done.stderr.decode("utf-8", "replace")
            raise Refused(f"it does not run the file: {_reason(said, done.returncode)}")
        with np.load(result, allow_pickle=False) as found:
            flat, lengths = found["tokens"].tolist(), found["lengths"].tolist()
            tokens, start = [], 0
            for length in lengths:
                tokens.append(flat[start : start + length])
                start += length
            return Answers(tokens, found["log_probabilities"], found["greedy"].tolist())


def _reason(said: str, code: int) -> str:
    """The line of llama.cpp's output that names a fault."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if any(word in line.lower() for word in ("error", "failed", "assert", "incorrect"))
    ]
    return (telling or lines or [f"it ended with {code}"])[0][:300]


def _serve(job: dict[str, Any]) -> None:
    """Answer a job; run in the process of its own."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.n_ctx = len(job["ids"]) + job["greedy"] + 16
    params.n_parallel = 1
    params.warmup = False
    params.fit_params = False
    params.ui = False
    params.enable_chat_template = False
    params.n_gpu_layers = 0
    # Full precision wherever llama.cpp would save: the comparison is of weights.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.no_extra_bufts = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    if job["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(job["adapter"], 1.0)]
    server = xllamacpp.Server(params)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            raise RuntimeError(f"{path} answers {error.code}: {said[:200]}") from error

    _wait_until_ready(opener, server.listening_address)

    tokens = [
        post("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]
        for text in job["texts"]
    ]
    shape = (len(job["scales"]), job["positions"], job["vocabulary"])
    found = np.full(shape, -np.inf, dtype=np.float32)
    for row, scale in enumerate(job["scales"]):
        lora = {"lora": [{"id": 0, "scale": scale}]} if job["adapter"] else {}
        for position in range(job["positions"]):
            answer = post(
                "/completion",
                {
                    "prompt": job["ids"][: position + 1],
                    "n_predict": 1,
                    "n_probs": job["vocabulary"],
                    "temperature": 0,
                    "samplers": [],
                    # What is written next does not matter, but half a character would keep the
                    # server from answering; probabilities are those before this bias.
                    "logit_bias": [[job["filler"], 1000.0]],
                    "cache_prompt": True,
                    **lora,
                },
            )
            for entry in answer["completion_probabilities"][0]["top_logprobs"]:
                found[row, position, entry["id"]] = entry["logprob"]
    greedy: list[int] = []
    if job["greedy"]:
        lora = {"lora": [{"id": 0, "scale": job["scales"][0]}]} if job["adapter"] else {}
        greedy = post(
            "/completion",
            {
                "prompt": job["ids"],
                "n_predict": job["greedy"],
                "temperature": 0,
                "samplers": ["temperature"],
                "repeat_penalty": 1.0,
                "ignore_eos": False,
                "return_tokens": True,
                **lora,
            },
        )["tokens"]
    np.savez(
        job["result"],
        tokens=np.array([token for ids in tokens for token in ids], dtype=np.int64),
        lengths=np.array([len(ids) for ids in tokens], dtype=np.int64),
        log_probabilities=found,
        greedy=np.array(greedy, dtype=np.int64),
    )


def _wait_until_ready(opener: Any, address: str) -> None:
    """Return when the server says that its model is loaded; on a busy machine that takes a while.

    Raises:
        RuntimeError: It does not within a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with opener.open(f"{address}/health", timeout=10) as answer:
                if answer.status == 200:
                    return
        except OSError:  # not listening yet, or 503 while it loads
            time.sleep(0.05)
    raise RuntimeError("the server did not get ready")


def main(path: str) -> None:
    """Answer the job in a file, and end without waiting for the server's threads."""
    try:
        import xllamacpp  # noqa: F401
    except (ImportError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(_UNAVAILABLE)
    try:
        _serve(read_json(Path(path)))
    except BaseException as error:  # noqa: B036 - reported to the parent process
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
