"""Kills and failing calls of what keeps running: the studio and the server, while they are used."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from studio_kills import SAVED_AFTER, Journey

from . import layer as layers
from . import material
from .frame import Bench, Child, Ended, Fault, Part, Trial, command
from .scenarios import CPU, left_over

STUDIO_CALLS = 160
"""Writing calls of a studio's journey among which the last one is drawn."""
WALK = 1.5
"""Seconds of a journey at most."""
KILLS = 60
ERRORS = ("full", "half", "quota", "io", "readonly", "denied", "gone")


def until(child: Child, pattern: str, seconds: float = 30) -> str | None:
    """What matches in the child's stdout; None where it ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.search(pattern, child.read("out")):
            return found[0]
        if child.ended():
            return None
        time.sleep(0.01)
    raise Fault(f"{pattern} did not come: {child.read('err')[-500:]}")


def studio(bench: Bench, folder: Path, plan: layers.Plan | None = None) -> Child:
    """A studio on ``stories/s.json``."""
    words = [
        "studio", f"--model={material.parrot(bench)}", "--story=stories/s.json", "--no-browser",
        "--port=0", *CPU,
    ]  # fmt: skip
    return bench.start(
        command(words), folder, plan=plan, environment={"CWGPT_CACHE": str(folder / "cache")}
    )


def client_of(child: Child) -> httpx.Client | None:
    """A client that is logged in; None where the studio ended before."""
    found = until(child, r"http://\S+/#t=\S+\n")
    if found is None:
        return None
    origin, _, secret = found.strip().partition("/#t=")
    client = httpx.Client(base_url=origin, headers={"origin": origin}, timeout=20, trust_env=False)
    try:
        client.post("/api/login", json={"secret": secret}).raise_for_status()
    except httpx.TransportError:
        client.close()
        return None
    return client


def walk(child: Child, journey: Journey, seconds: float) -> None:
    """Use the studio, for some time or until it is gone."""
    thread = threading.Thread(target=journey.run, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not child.ended():
        time.sleep(0.01)


def studio_trial(
    bench: Bench, name: str, act: str, at: int, moment: float | None, folder: Path
) -> None:
    """A journey that a fault ends or disturbs; then the studio starts again and is used."""
    from creativewritinggpt.errors import UserError
    from creativewritinggpt.story.file import read_story

    material.cache(folder)
    stories = folder / "stories"
    stories.mkdir()
    draw = bench.draw(name)
    child = studio(bench, folder, layers.Plan((stories, folder / "cache" / "studio.json"), at, act))
    client = client_of(child)
    journey: Journey | None = None
    began = time.monotonic()
    if client is not None:
        journey = Journey(client, draw, name.replace("/", "-"))
        walk(child, journey, WALK if moment is None else moment)
        stopped = time.monotonic()
        child.send(
            signal.SIGKILL if moment is not None or act in ("die", "torn") else signal.SIGTERM
        )
    else:
        stopped = began
    ended = child.wait(40)
    if client is not None:
        time.sleep(0.05)
        client.close()
    _studio_ended(ended, journey, act, moment)
    path = stories / "s.json"
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        if path.exists():
            read_story(path)
    except (UserError, OSError) as error:
        raise Fault(f"the story is broken: {error}") from error
    if journey is not None and act in ("die", "torn", "term"):
        gone = [s for when, s in journey.accepted if when < stopped - SAVED_AFTER and s not in text]
        if gone:
            raise Fault(f"an accepted sentence is gone: {gone[0]}")
    if act == "gone":
        stories.mkdir(exist_ok=True)
    _studio_goes_on(bench, folder, text)


def _studio_ended(ended: Ended, journey: Journey | None, act: str, moment: float | None) -> None:
    if "Traceback" in ended.err:
        raise Fault(f"a traceback: {ended.err[-600:]!r}")
    if ended.unflushed:
        raise Fault(f"renamed before it was flushed: {ended.unflushed[0]}")
    if moment is None and ended.signal not in (0, signal.SIGKILL, signal.SIGTERM):
        raise Fault(f"signal {ended.signal}")
    # A full disk, and what a studio answers after SIGTERM, where closing takes it a moment.
    right = (" 507", '"kind":"Closing"') if act == "term" else (" 507",)
    bad = (
        [one for one in journey.faults if not any(part in one for part in right)] if journey else []
    )
    if bad and act in ("die", "torn", "term"):
        raise Fault(f"an answer of 500 or more: {bad[0][:300]}")
    if [text for text in bad if "this should not happen" in text or "Error:" in text]:
        raise Fault(f"an answer that nobody has thought of: {bad[0][:300]}")


def _studio_goes_on(bench: Bench, folder: Path, before: str) -> None:
    """The next studio opens the story, takes a sentence, and leaves nothing behind."""
    child = studio(bench, folder)
    client = client_of(child)
    if client is None:
        ended = child.wait(5)
        raise Fault(f"the next studio does not start: {ended.err[-300:]!r}")
    state = client.get("/api/state").json()
    story = state["story"]
    if story["readonly"]:
        raise Fault(f"the story can only be read in the next studio: {story['readonly']}")
    end = len(story["text"].encode("utf-16-le")) // 2
    answer = client.post(
        "/api/story/edit",
        json={
            "revision": story["revision"],
            "n": state["n"],
            "changes": [[end, end, " It goes on."]],
        },
    )
    client.close()
    child.send(signal.SIGTERM)
    ended = child.wait(40)
    if not answer.is_success or ended.code not in (0, 130, 143):
        raise Fault(
            f"the next studio: {answer.status_code}, exit code {ended.code}: {ended.err[-300:]!r}"
        )
    if "It goes on." not in (folder / "stories" / "s.json").read_text("utf-8"):
        raise Fault("the next studio did not keep a sentence")
    if left := left_over(folder):
        raise Fault(f"after the next studio there is still {', '.join(left)}")


# ---- the server


def server_trial(bench: Bench, name: str, number: int, moment: float, folder: Path) -> None:
    """A server that gets a signal while three clients stream; the next takes its port."""
    material.cache(folder)
    words = ["serve", f"--model={material.model(bench)}", *CPU]
    environment = {"CWGPT_CACHE": str(folder / "cache")}
    child = bench.start(command([*words, "--port=0"]), folder, environment=environment)
    url = (until(child, r"http://[\w.:]+(?=\s)") or "").rstrip("/")
    threads = [
        threading.Thread(target=_stream, args=(url, seed, faults := []), daemon=True)
        for seed in range(3)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    time.sleep(moment)
    child.send(number)
    ended = child.wait(40)
    for thread in threads:
        thread.join(20)
    if "Traceback" in ended.err:
        raise Fault(f"a traceback: {ended.err[-600:]!r}")
    if number == signal.SIGTERM and ended.code not in (0, 143):
        raise Fault(f"SIGTERM: exit code {ended.code}, signal {ended.signal}: {ended.err[-300:]!r}")
    if faults:
        raise Fault(f"a client: {faults[0]}")
    port = url.rpartition(":")[2]
    child = bench.start(command([*words, f"--port={port}"]), folder, environment=environment)
    if until(child, r"http://\S+") is None:
        raise Fault(f"the next server does not start on the port: {child.wait(5).err[-300:]!r}")
    status = httpx.get(f"{url}/v1/models", timeout=20, trust_env=False).status_code
    child.send(signal.SIGTERM)
    if status != 200 or child.wait(40).code not in (0, 143):
        raise Fault(f"the next server answers {status}")
    if left := left_over(folder):
        raise Fault(f"there is still {', '.join(left)}")


def _stream(url: str, seed: int, faults: list[str]) -> None:
    body = {"prompt": "The lamp went out", "max_tokens": 60, "stream": True, "seed": seed}
    with (
        contextlib.suppress(httpx.TransportError),
        httpx.Client(timeout=30, trust_env=False) as client,
    ):
        while True:
            with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                if answer.status_code not in (200, 503):
                    faults.append(f"status {answer.status_code}: {answer.read()[:300]!r}")
                    return
                for _ in answer.iter_lines():
                    pass


def trials(bench: Bench) -> Iterator[Trial]:
    """Journeys through the studio and streams of the server."""
    draw = bench.draw("services")
    found: list[Trial] = []

    def add(name: str, run: Any, kills: int) -> None:
        found.append(Trial(name, run, kills=kills))

    for number in range(max(1, round(KILLS * bench.rounds))):
        at, moment = draw.randint(1, STUDIO_CALLS), draw.uniform(0, WALK)
        for act, when in (("die", None), ("torn", None), ("die", moment), ("term", None)):
            kind = "sigkill" if when is not None else act
            name = f"studio/{kind}/{number}"
            run = functools.partial(
                studio_trial, bench, name, act, 0 if when is not None else at, when
            )
            add(name, run, 1)
        if number % 3 == 0:
            for act in ERRORS:
                name = f"studio/{act}/{number}"
                add(name, functools.partial(studio_trial, bench, name, act, at, None), 0)
        for signum in (signal.SIGKILL, signal.SIGTERM):
            name = f"server/{signal.Signals(signum).name.lower()}/{number}"
            run = functools.partial(server_trial, bench, name, signum, draw.uniform(0, 1))
            add(name, run, 1)
    draw.shuffle(found)
    yield from found


PART = Part("services", "kills and failing calls of the studio and the server in use", trials)
