"""Long runs: memory, open files and files on disk stay as they are."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from corpora import story

from . import material, services
from .frame import Bench, Child, Fault, Part, Trial, command
from .scenarios import CPU, left_over

STEPS, REQUESTS, CHANGES, GIGABYTES = 10_000, 5_000, 2_000, 2.0
GROWTH = 24
"""Megabytes that a process may grow by after the first fifth of a run."""
EVENT_LOG = 32
"""Megabytes that the studio keeps of its last events."""


class Watch:
    """Memory, open files and files on disk of a child.

    Args:
        child: The child.
        folder: Whose files are counted.
    """

    def __init__(self, child: Child, folder: Path) -> None:
        self.child, self.folder = child, folder
        self.rows: list[dict[str, float]] = []

    def look(self, done: float) -> None:
        """Note what it uses now, when so much is done."""
        try:
            status = Path(f"/proc/{self.child.pid}/status").read_text()
            handles = len(os.listdir(f"/proc/{self.child.pid}/fd"))
        except OSError:
            return
        lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
        if not lines:
            return
        memory = int(lines[0].split()[1]) // 1024
        files = sum(1 for path in self.folder.rglob("*") if path.is_file())
        self.rows.append(
            {"done": round(done, 3), "memory_mb": memory, "handles": handles, "files": files}
        )

    def judge(self, seconds: float, more: int = 0) -> dict[str, Any]:
        """The figures.

        Args:
            seconds: How long it took.
            more: Megabytes that it may grow by beside :data:`GROWTH`.

        Raises:
            Fault: Something has grown.
        """
        settled = [row for row in self.rows if row["done"] >= 0.2]
        if len(settled) < 3:
            raise Fault(f"too few looks: {self.rows}")
        first, last = settled[0], settled[-1]
        told = f"{first} became {last}"
        if last["memory_mb"] > first["memory_mb"] + GROWTH + more:
            raise Fault(f"memory grows: {told}")
        if last["handles"] > first["handles"] + 4:
            raise Fault(f"open files grow: {told}")
        if last["files"] > first["files"] + 4:
            raise Fault(f"files on disk grow: {told}")
        return {"seconds": round(seconds, 1), "looks": [self.rows[0], first, last]}


def training(bench: Bench, folder: Path) -> dict[str, Any]:
    """Ten thousand steps of a tiny model, with validations and checkpoints."""
    material.cache(folder)
    out = folder / "out"
    out.mkdir()
    words = [
        "train", material.stories(bench), f"--model-name={material.model(bench)}",
        f"--output-dir={out}", "--max-length=32", "--batch-size=1", f"--max-steps={STEPS}",
        "--lora-r=2", "--patience=0", "--eval-steps=500", "--save-steps=200",
        "--gradient-accumulation-steps=1", "--save-total-limit=2", *CPU,
    ]  # fmt: skip
    child = bench.start(command(words), folder, environment={"CWGPT_CACHE": str(folder / "cache")})
    watch, log = Watch(child, out), out / "metrics.jsonl"
    while not child.ended():
        time.sleep(1)
        done = 0
        if log.exists():
            lines = log.read_bytes()[-400:].splitlines()
            for line in lines:
                try:
                    done = max(done, json.loads(line)["step"])
                except (ValueError, KeyError):
                    continue
        watch.look(done / STEPS)
    ended = child.wait()
    if ended.code:
        raise Fault(f"exit code {ended.code}: {ended.err[-300:]!r}")
    if left := left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")
    return {"steps": STEPS, **watch.judge(ended.seconds)}


def _spread(work: Callable[[int], None], count: int, threads: int, watch: Watch) -> list[str]:
    """Do ``work(0) … work(count - 1)`` in some threads, with looks in between; what failed."""
    numbers, lock, faults, done = iter(range(count)), threading.Lock(), [], [0]

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or len(faults) > 20:
                return
            try:
                work(number)
            except Exception as error:
                faults.append(f"{number}: {type(error).__name__}: {error}")
            with lock:
                done[0] += 1

    started = [threading.Thread(target=run) for _ in range(threads)]
    for thread in started:
        thread.start()
    while any(thread.is_alive() for thread in started):
        time.sleep(0.5)
        watch.look(done[0] / count)
    for thread in started:
        thread.join()
    watch.look(1.0)
    return faults


def server(bench: Bench, folder: Path) -> dict[str, Any]:
    """Five thousand requests: streams, whole answers, chats, scores, bad ones, broken ones."""
    material.cache(folder)
    words = ["serve", f"--model={material.model(bench)}", "--port=0", *CPU]
    child = bench.start(command(words), folder, environment={"CWGPT_CACHE": str(folder / "cache")})
    url = services.until(child, r"http://[\w.:]+(?=\s)") or ""
    local = threading.local()

    def request(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = httpx.Client(timeout=60, trust_env=False)
        client, draw = local.client, random.Random(number)
        text = story(draw, 1)
        body: dict[str, Any] = {"prompt": text, "max_tokens": draw.choice([1, 4, 8])}
        kind = number % 6
        if kind == 0:
            status = client.post(f"{url}/v1/completions", json={**body, "n": 2}).status_code
        elif kind == 1:
            chat = {"messages": [{"role": "user", "content": text[:40]}], "max_tokens": 4}
            status = client.post(f"{url}/v1/chat/completions", json=chat).status_code
        elif kind == 2:
            status = client.post(f"{url}/v1/scores", json={"text": text[:60]}).status_code
        elif kind == 3:
            bad = client.post(f"{url}/v1/completions", json={**body, "temperature": 99}).status_code
            status = 200 if bad == 400 else bad
        else:
            with client.stream(
                "POST", f"{url}/v1/completions", json={**body, "stream": True, "max_tokens": 20}
            ) as answer:
                status = answer.status_code
                for line, _ in enumerate(answer.iter_lines()):
                    if kind == 5 and line > 2:
                        break  # the client goes away
        if status != 200:
            raise Fault(f"request of kind {kind}: status {status}")

    began = time.monotonic()
    watch = Watch(child, folder)
    faults = _spread(request, REQUESTS, 6, watch)
    seconds = time.monotonic() - began
    child.send(signal.SIGTERM)
    ended = child.wait(40)
    if faults or ended.code not in (0, 143):
        raise Fault(f"{len(faults)} failed: {faults[:2]}; exit code {ended.code}")
    return {"requests": REQUESTS, **watch.judge(seconds)}


def studio(bench: Bench, folder: Path) -> dict[str, Any]:
    """Two thousand changes of a story at the studio's desk."""
    material.cache(folder)
    (folder / "stories").mkdir()
    child = services.studio(bench, folder)
    client = services.client_of(child)
    if client is None:
        raise Fault("the studio did not start")
    state = client.get("/api/state").json()
    revision, n, length = state["story"]["revision"], state["n"], 0
    watch = Watch(child, folder)
    draw = bench.draw("long/studio")
    began = time.monotonic()
    for number in range(CHANGES):
        text = f"Sentence {number}. "
        changes: list[list[Any]] = [[length, length, text]]
        if number % 10 == 9:  # something in the middle goes again
            place = draw.randrange(max(1, length - 40))
            changes = [[place, place + 30, ""]]
            text, length = "", length - 30
        answer = client.post(
            "/api/story/edit", json={"revision": revision, "n": n, "changes": changes}
        )
        if not answer.is_success:
            raise Fault(f"change {number}: {answer.status_code} {answer.text[:200]}")
        revision, n, length = answer.json()["revision"], answer.json()["n"], length + len(text)
        if number % 50 == 49:
            watch.look((number + 1) / CHANGES)
        if number % 100 == 99:
            client.post("/api/story/undo", json={})
            client.post("/api/story/redo", json={})
            state = client.get("/api/state").json()
            revision, n = state["story"]["revision"], state["n"]
            length = len(state["story"]["text"])
    seconds = time.monotonic() - began
    shown = client.get("/api/state").json()["story"]["text"]
    client.close()
    child.send(signal.SIGTERM)
    ended = child.wait(60)
    from creativewritinggpt.story.file import read_story

    kept = read_story(folder / "stories" / "s.json").text
    if kept != shown or ended.code not in (0, 143):
        raise Fault(f"the file has {len(kept)} characters, the page {len(shown)}")
    if left := left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")
    return {"changes": CHANGES, "characters": len(kept), **watch.judge(seconds, EVENT_LOG)}


def stream(bench: Bench, folder: Path) -> dict[str, Any]:
    """A corpus of two gigabytes is streamed for two minutes."""
    material.cache(folder)
    out, corpus = folder / "out", folder / "corpus.jsonl"
    out.mkdir()
    draw, size = random.Random(0), int(GIGABYTES * 1e9)
    block = b"".join(json.dumps({"text": story(draw, 60)}).encode() + b"\n" for _ in range(2000))
    with corpus.open("wb") as file:
        number = 0
        while file.tell() < size:
            # Documents that are alike would be left out.
            file.write(block.replace(b"lamp", b"lamp%d" % number).replace(b"sea", b"%d" % number))
            number += 1
    words = [
        "train", corpus, f"--model-name={material.model(bench)}", f"--output-dir={out}",
        "--streaming", "--max-length=64", "--batch-size=16", "--max-steps=1000000", "--lora-r=2",
        "--patience=0", "--eval-steps=200", "--save-steps=200", "--save-total-limit=2", *CPU,
    ]  # fmt: skip
    child = bench.start(command(words), folder, environment={"CWGPT_CACHE": str(folder / "cache")})
    watch, began, step = Watch(child, out), time.monotonic(), 0
    while not child.ended() and time.monotonic() - began < 110:
        time.sleep(1)
        if (out / "metrics.jsonl").exists():
            lines = (out / "metrics.jsonl").read_bytes()[-300:].splitlines()
            with_step = [json.loads(line)["step"] for line in lines if line.startswith(b'{"step"')
                         and line.endswith(b"}")]  # fmt: skip
            step = max([step, *with_step])
            watch.look((time.monotonic() - began) / 110)
    child.send(signal.SIGTERM)
    ended = child.wait(60)
    if ended.code != 0 or not step:
        raise Fault(f"exit code {ended.code} at step {step}: {ended.err[-400:]!r}")
    return {"bytes": corpus.stat().st_size, "steps": step, **watch.judge(ended.seconds)}


def trials(bench: Bench) -> Iterator[Trial]:
    """One of each."""
    for run in (training, server, studio, stream):
        yield Trial(f"long/{run.__name__}", functools.partial(run, bench))


PART = Part("long", "memory, open files and files on disk in long runs", trials, on_demand=True)
