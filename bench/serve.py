"""How a server holds up under several clients, against its own one at a time and llama.cpp's.

    python bench/serve.py [--quick] [--clients 1,2,4,8,16] [--contenders ours,llama.cpp] [--json]

Each client asks for `/v1/completions` as a stream, one request after the other, with prompts of 64
and 500 tokens in turn (each another text) and 128 new tokens (`--quick`: 32). Figures: tokens per
second in all, time to the first token and between tokens (p50, p95, in seconds), fairness (the
slowest client's tokens per second over the fastest's), errors. `one-at-a-time` is our own server
that writes one row at a time. `stall` is the p95 of the time to the first token of 8 clients while
a prompt of 1,000 tokens comes in, over the time that this prompt takes alone. `overhead` is what
one stream takes by the server over what it takes by the engine in this process. llama.cpp's server
comes with `pip install xllamacpp`, with 8 slots and the same model in Q8_0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from generate_contenders import sample_prompts
from measuring import machine, median, show

METRICS = ("tokens_per_second", "first_p50", "first_p95", "gap_p50", "gap_p95", "fairness",
           "errors")  # fmt: skip
SECONDS = 300.0


class Served:
    """A server in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if " at http://" in line:
                self.url = line.split(" at ")[1].strip()
                break
        else:
            raise RuntimeError(f"{command} did not start")

    def close(self) -> None:
        """End the process."""
        self.popen.terminate()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()


def ours(*flags: str) -> list[str]:
    """The command of our server."""
    return [sys.executable, "-m", "creativewritinggpt", "serve", "--model", "starter", "--port",
            "0", *flags]  # fmt: skip


CONTENDERS = {
    "ours": ours(),
    "one-at-a-time": ours("--max-rows", "1"),
    "llama.cpp": [sys.executable, __file__, "--worker", "llama.cpp"],
}


def llama_cpp() -> None:
    """Serve the starter by llama.cpp's server until the process is ended."""
    import torch
    import xllamacpp
    from generate_contenders import load

    from creativewritinggpt.export.run import export
    from creativewritinggpt.export.settings import ExportSettings

    folder = Path(tempfile.mkdtemp(prefix="bench-serve-")) / "model"
    [path] = export(load("starter"), "gguf", folder, ExportSettings(verify=1)).files
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = 8, 8 * 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    params.port = 0
    server = xllamacpp.Server(params)
    print(f"serving at {server.listening_address}", flush=True)
    threading.Event().wait()


async def ask(client: httpx.AsyncClient, url: str, prompt: str, tokens: int) -> dict[str, Any]:
    """One request: when its tokens came, in seconds from its start."""
    body = {"model": "starter", "prompt": prompt, "max_tokens": tokens, "stream": True,
            "ignore_eos": True, "temperature": 0.9, "top_p": 0.95, "seed": 1}  # fmt: skip
    started = time.perf_counter()
    times: list[float] = []
    try:
        async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and '"text"' in line:
                    times.append(time.perf_counter() - started)
    except httpx.HTTPError as error:
        return {"error": type(error).__name__, "times": times, "tokens": 0}
    return {"times": times, "tokens": tokens, "seconds": time.perf_counter() - started}


async def load_test(url: str, clients: int, requests: int, tokens: int) -> dict[str, Any]:
    """Clients side by side, each with some requests one after the other."""
    short, long = sample_prompts(64), sample_prompts(500)
    count = iter(range(10_000))

    def prompt() -> str:
        number = next(count)
        return (short if number % 2 == 0 else long)[number % len(short)]

    async def one(client: httpx.AsyncClient) -> tuple[list[dict[str, Any]], float]:
        started = time.perf_counter()
        found = [await ask(client, url, prompt(), tokens) for _ in range(requests)]
        return found, time.perf_counter() - started

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=SECONDS, limits=limits) as client:
        started = time.perf_counter()
        each = await asyncio.gather(*(one(client) for _ in range(clients)))
        seconds = time.perf_counter() - started
    answers = [answer for found, _ in each for answer in found]
    firsts = [answer["times"][0] for answer in answers if answer["times"]]
    gaps = [b - a for x in answers for a, b in zip(x["times"], x["times"][1:], strict=False)]
    rates = [sum(answer["tokens"] for answer in found) / taken for found, taken in each]
    return {
        "tokens_per_second": sum(answer["tokens"] for answer in answers) / seconds,
        "first_p50": median(firsts),
        "first_p95": percentile(firsts, 0.95),
        "gap_p50": median(gaps),
        "gap_p95": percentile(gaps, 0.95),
        "fairness": min(rates) / max(rates),
        "errors": sum("error" in answer for answer in answers),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def stall(url: str, tokens: int) -> dict[str, float]:
    """Time to the first token of 8 clients beside a long prompt, and of that prompt alone."""
    short, long = sample_prompts(64), sample_prompts(1000)
    async with httpx.AsyncClient(timeout=SECONDS) as client:
        alone = (await ask(client, url, long[0], 1))["times"][0]
        beside = asyncio.ensure_future(ask(client, url, long[1], tokens))
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(
            *(ask(client, url, short[number], tokens) for number in range(8))
        )
        await beside
    first = percentile([answer["times"][0] for answer in answers], 0.95)
    return {"alone": alone, "beside": first, "stall": first / alone}


def overhead(url: str, tokens: int, repeats: int) -> float:
    """Seconds of one stream by the server over those of the engine, by turns."""
    from generate_contenders import load

    from creativewritinggpt.generation.engine import stream
    from creativewritinggpt.generation.sampling.settings import GenerationSettings

    model = load("starter")
    settings = GenerationSettings(
        max_new_tokens=tokens, min_new_tokens=tokens, temperature=0.9, top_p=0.95,
        repetition_penalty=1.0, seed=1,
    )  # fmt: skip
    ratios = []
    prompts = sample_prompts(64)
    for number in range(repeats + 1):
        started = time.perf_counter()
        for _ in stream(model, prompts[number], settings):
            pass
        engine = time.perf_counter() - started

        async def once(prompt: str) -> float:
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                found = await ask(client, url, prompt, tokens)
                return float(found["seconds"])

        served = asyncio.run(once(prompts[number]))
        if number:  # the first is the warm-up
            ratios.append(served / engine)
    return median(ratios)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--worker")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.worker:
        llama_cpp()
        return
    tokens, requests = (32, 1) if arguments.quick else (128, 2)
    rows: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    for name in arguments.contenders.split(","):
        try:
            server = Served(CONTENDERS[name])
        except (RuntimeError, OSError) as error:
            rows.append({"contender": name, "model": "starter", "case": "", "skipped": str(error)})
            continue
        try:
            asyncio.run(load_test(server.url, 1, 1, 8))  # warm-up
            for clients in map(int, arguments.clients.split(",")):
                found = asyncio.run(load_test(server.url, clients, requests, tokens))
                case = f"{clients} clients"
                rows.append({"contender": name, "model": "starter", "case": case, **found})
            if name == "ours":
                extra.update(asyncio.run(stall(server.url, tokens)))
                repeats = 1 if arguments.quick else 5
                extra["overhead"] = overhead(server.url, tokens, repeats)
        finally:
            server.close()
    show("servers", rows, METRICS)
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows, **extra}, indent=1))
    else:
        print(json.dumps(extra))


if __name__ == "__main__":
    main()
