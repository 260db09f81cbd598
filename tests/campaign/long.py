"""Long runs: memory, open files and files on disk stay as they are."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from corpora import story

from creativewritinggpt.training.run_files import BEST, CHECKPOINTS, CURVES, METRICS_LOG

from . import material, services
from .frame import Bench, Child, Fault, Part, Trial, command
from .scenarios import CPU, left_over
from .watch import Watch

STEPS, REQUESTS, CHANGES, GIGABYTES = 10_000, 5_000, 2_000, 2.0
STREAM_SECONDS = 120
BLOCK = 2000
"""Documents that are written again with other words."""
SHARDS = 16
"""Parts of the corpus, of which one is read."""
EVENT_LOG = 32
"""Megabytes that the studio keeps of its last events."""


def _step(out: Path) -> int:
    """The step that a training has come to, by the end of its log."""
    log, step = out / METRICS_LOG, 0
    for line in log.read_bytes()[-400:].splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError, KeyError):
            step = max(step, json.loads(line)["step"])
    return step


def _trained(out: Path) -> bool:
    """Whether a training has validated, kept a best model, saved and drawn at least once."""
    saved = list((out / CHECKPOINTS).glob("step-*"))
    return (out / CURVES).exists() and (out / BEST).exists() and len(saved) >= 2


def _draw_often() -> None:
    """Let the curves of a short run be drawn as often as those of a long one."""
    from creativewritinggpt.training import trainer

    trainer.DRAW_EVERY = 3.0


def _training(bench: Bench, folder: Path, *words: object) -> tuple[Child, Watch]:
    """A training at work in ``folder``, whose curves are drawn every few seconds."""
    material.cache(folder)
    out = folder / "out"
    out.mkdir()
    child = bench.start(
        command(
            ["train", *words, f"--model-name={material.model(bench)}", f"--output-dir={out}",
             "--lora-r=2", "--patience=0", "--save-steps=200", "--save-total-limit=2", *CPU]
        ),
        folder, environment={"CWGPT_CACHE": str(folder / "cache")}, prepare=_draw_often,
    )  # fmt: skip
    return child, Watch(child, out, lambda: _trained(out))


def training(bench: Bench, folder: Path) -> dict[str, Any]:
    """Ten thousand steps of a tiny model, with validations, samples, checkpoints and curves."""
    child, watch = _training(
        bench, folder, material.stories(bench), "--max-length=32", "--batch-size=1",
        f"--max-steps={STEPS}", "--eval-steps=500", "--gradient-accumulation-steps=1",
    )  # fmt: skip
    while not child.ended():
        time.sleep(0.5)
        step = _step(watch.folder)
        if step < STEPS:  # then the last model is written
            watch.look(step / STEPS)
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


def _corpus(bench: Bench) -> Path:
    """A file of two gigabytes of stories, as JSON lines."""

    def make(folder: Path) -> Path:
        draw, path, number = random.Random(0), folder / "corpus.jsonl", 0
        lines = [json.dumps({"text": story(draw, 60)}) + "\n" for _ in range(BLOCK)]
        block = "".join(lines).encode()
        with path.open("wb") as file:
            while file.tell() < GIGABYTES * 1e9:
                # Documents that are alike would be left out.
                new = block.replace(b"lamp", b"lamp%d" % number).replace(b"sea", b"%d" % number)
                file.write(new)
                number += 1
        return path

    found: Path = bench.shared("corpus", make)
    return found


def stream(bench: Bench, folder: Path) -> dict[str, Any]:
    """A corpus of two gigabytes is trained on for two minutes, then SIGTERM ends the run."""
    corpus = _corpus(bench)
    child, watch = _training(
        bench, folder, corpus, "--streaming", "--max-length=64", "--batch-size=16",
        "--max-steps=1000000", "--eval-steps=200",
    )  # fmt: skip
    began = time.monotonic()
    while not child.ended() and time.monotonic() - began < STREAM_SECONDS:
        time.sleep(0.5)
        if _step(watch.folder):
            watch.look((time.monotonic() - began) / STREAM_SECONDS)
    child.send(signal.SIGTERM)
    sent, step = time.monotonic(), _step(watch.folder)
    ended = child.wait(60)
    if ended.code != 130 or not step:
        raise Fault(f"exit code {ended.code} at step {step}: {ended.err[-400:]!r}")
    seconds = round(time.monotonic() - sent, 1)
    figures = watch.judge(ended.seconds)
    return {"bytes": corpus.stat().st_size, "steps": step, "seconds_to_end": seconds, **figures}


def _rows(corpus: Path, model: Path) -> int:
    """Make the rows of one of the shards of a corpus, to its end; say how many documents."""
    from transformers import AutoTokenizer

    from creativewritinggpt.config.run import Config
    from creativewritinggpt.data.rows.stream import StreamedRows, open_corpus

    config = Config(model_name=str(model), streaming=True, max_steps=1, num_workers=1)
    shape = {"max_length": 256, "bos_id": 0, "eos_id": 0, "mask_prompt": False}
    opened = open_corpus(config, [str(corpus)])
    rows = StreamedRows(opened, config, AutoTokenizer.from_pretrained(model), shape, 0, SHARDS,
                        SHARDS)  # fmt: skip
    while True:
        rows.take(64 * SHARDS)
        [stats] = rows.stats().values()
        if stats["passes"]:
            return 0
        sys.stdout.write(f"{stats['documents'] + stats['left_out']}\n")
        sys.stdout.flush()


def corpus(bench: Bench, folder: Path) -> dict[str, Any]:
    """A corpus of two gigabytes is read to its end, as each of sixteen processes reads it."""
    path, model = _corpus(bench), material.model(bench)
    with path.open("rb") as file:
        mine = sum(1 for _ in file) / SHARDS
    child = bench.start(lambda: _rows(path, model), folder)
    watch, documents = Watch(child, folder), 0
    while not child.ended():
        time.sleep(0.5)
        documents = int((["0", *child.read("out").split()])[-1])
        if documents:
            watch.look(documents / mine)
    ended = child.wait()
    if ended.code or documents < 0.95 * mine:
        raise Fault(f"exit code {ended.code}, {documents} of {mine:.0f}: {ended.err[-400:]!r}")
    return {"bytes": path.stat().st_size, "documents": documents, **watch.judge(ended.seconds)}


def trials(bench: Bench) -> Iterator[Trial]:
    """One of each."""
    for run in (training, server, studio, stream, corpus):
        yield Trial(f"long/{run.__name__}", functools.partial(run, bench))


PART = Part("long", "memory, open files and files on disk in long runs", trials, on_demand=True)
