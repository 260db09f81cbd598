"""Kills a studio at random moments of a journey through its API, and reads the story each time.

A start costs seconds of imports; here a process that has imported all of it forks each studio, so
that hundreds of kills take minutes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import scripted

from creativewritinggpt.cli.main import main
from creativewritinggpt.story.file import read_story
from creativewritinggpt.studio.app import ROOMS

LATEST = 1.2
"""Longest time from the model's being there to the kill, in seconds."""
SAVED_AFTER = 1.2
"""Seconds after which an accepted edit must be on disk."""
DELAY = 0.005
_IMPORTS = [
    "torch", "transformers", "starlette.applications", "uvicorn", "websockets", "httpx",
    "creativewritinggpt.models.loading", "creativewritinggpt.server.scheduler",
    "creativewritinggpt.studio.studio", "creativewritinggpt.generation.engine",
    "creativewritinggpt.story.context", *(f"creativewritinggpt.studio.{room}" for room in ROOMS),
    "parrot", "studio_speed", "studio_kills",
]  # fmt: skip
Say = Callable[[str], None]


def serve(arguments: list[str], folder: str, printed: str) -> None:
    """A studio; the body of its process."""
    os.chdir(folder)
    for name, number in ((printed, 1), ("studio.log", 2)):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
    scripted.slow_down(DELAY)
    main(arguments)


class ForkedStudio:
    """A studio that starts at once.

    Args:
        folder: Its working folder.
        model: The model's folder.
        file: The story file.
    """

    def __init__(self, folder: Path, model: Path, file: Path) -> None:
        self.folder, self.file = folder, file
        self.arguments = [
            "studio", "--model", str(model), "--story", str(file), "--no-browser", "--port", "0",
            "--device", "cpu", "--precision", "fp32", "--num-workers", "1",
        ]  # fmt: skip
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(_IMPORTS)
        self.printed = folder / "printed"

    def start(self) -> httpx.Client:
        """Start it; a client that is logged in."""
        self.printed.unlink(missing_ok=True)
        self.process = self.context.Process(
            target=serve, args=(self.arguments, str(self.folder), str(self.printed)), daemon=True
        )
        self.process.start()
        until = time.monotonic() + 60
        while not (found := re.search(r"(http://\S+)/#t=(\S+)\n", self._said())):
            if time.monotonic() > until or not self.process.is_alive():
                log = (self.folder / "studio.log").read_text("utf-8", "replace")
                raise RuntimeError(f"the studio did not start: {log[-2000:]}")
            time.sleep(0.01)
        origin, secret = found.groups()
        client = httpx.Client(
            base_url=origin, headers={"origin": origin}, timeout=20, trust_env=False
        )
        client.post("/api/login", json={"secret": secret}).raise_for_status()
        return client

    def _said(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.printed.read_text("utf-8")
        return ""

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.join(20)


class Journey:
    """A writer who does all that a story can have done to it, until the studio is gone.

    Args:
        client: The studio.
        draw: The random numbers.
        name: What its sentences are told apart by.
    """

    def __init__(self, client: httpx.Client, draw: random.Random, name: str) -> None:
        self.client, self.draw, self.name = client, draw, name
        self.accepted: list[tuple[float, str]] = []
        self.commands = 0
        self.faults: list[str] = []
        self.job: str | None = None

    def run(self) -> None:
        """Walk until the connection breaks."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (6, self.edit), (4, self.go_on), (1, self.version), (1, self.drafts), (1, self.take),
            (2, lambda: self.post("undo")), (2, lambda: self.post("redo")),
            (1, lambda: self.post("branch")), (1, lambda: self.post("goal", words=500)),
            (1, lambda: self.post("set", note=f"Note {self.draw.random():.3f}")),
            (1, lambda: self.post("chapter", title=f"Chapter {self.draw.random():.3f}")),
        ]  # fmt: skip
        weights = [weight for weight, _ in acts]
        with contextlib.suppress(httpx.TransportError):
            while True:
                self.draw.choices([act for _, act in acts], weights)[0]()
                self.commands += 1
                time.sleep(self.draw.random() * 0.05)

    def post(self, name: str, **body: Any) -> dict[str, Any] | None:
        """A command; its answer where it was accepted."""
        answer = self.client.post(f"/api/story/{name}", json=body)
        if answer.status_code >= 500:
            self.faults.append(f"{name}: {answer.text}")
        return answer.json() if answer.is_success else None

    def edit(self) -> None:
        """A sentence at the end."""
        state = self.client.get("/api/state").json()
        story, sentence = state["story"], f"Sentence {self.name}-{self.commands}."
        end = len(story["text"].encode("utf-16-le")) // 2
        body = {"revision": story["revision"], "n": state["n"]}
        if self.post("edit", **body, changes=[[end, end, f" {sentence}"]]):
            self.accepted.append((time.monotonic(), sentence))

    def go_on(self) -> None:
        """A passage by the model."""
        self.post("continue", tokens=self.draw.randint(5, 80))

    def version(self) -> None:
        """Another one."""
        self.post("version")

    def drafts(self) -> None:
        """Drafts."""
        answer = self.post("drafts", n=2)
        self.job = answer["job"] if answer else None

    def take(self) -> None:
        """One of them."""
        if self.job:
            self.post("take", job=self.job, row=0)


def kills(folder: Path, model: Path, count: int, seed: int, first: int, say: Say) -> dict[str, Any]:
    """Kill a studio ``count`` times; each kill's journey follows from its number and the seed.

    Args:
        folder: Where it works; a story that is there goes on.
        model: The model's folder.
        count: Number of kills.
        seed: The seed.
        first: Number of the first kill, to go on where a run ended.
        say: Told how far it is.

    Returns:
        The number of kills, of commands, of files that could not be read, of accepted sentences
        that are gone, and what the studio failed at.
    """
    file = folder / "lighthouse.json"
    studio = ForkedStudio(folder, model, file)
    result: dict[str, Any] = {"kills": 0, "commands": 0, "unreadable": 0, "lost_sentences": 0}
    faults: list[str] = []
    kept: set[str] = set()
    began = time.monotonic()
    for number in range(first, first + count):
        draw = random.Random(f"{seed}/{number}")
        client = studio.start()
        journey = Journey(client, draw, f"{seed}-{number}")
        walk = threading.Thread(target=journey.run, daemon=True)
        walk.start()
        _wait_for_model(client)
        time.sleep(draw.random() * LATEST)
        killed = time.monotonic()
        studio.kill()
        walk.join(20)
        client.close()
        result["kills"] += 1
        result["commands"] += journey.commands
        faults += journey.faults
        try:
            if file.exists():
                read_story(file)
        except Exception as error:
            result["unreadable"] += 1
            faults.append(f"kill {number}: {error}")
            file.rename(file.with_name(f"broken-{number}.json"))
            kept.clear()
            continue
        written = file.read_text("utf-8") if file.exists() else ""
        kept |= {text for when, text in journey.accepted if when < killed - SAVED_AFTER}
        lost = {text for text in kept if text not in written}
        result["lost_sentences"] += len(lost)
        faults += [f"kill {number}: lost {text}" for text in sorted(lost)]
        kept |= {text for _, text in journey.accepted if text in written}
        kept -= lost
        if result["kills"] % 10 == 0:
            say(f"{number + 1 - first} of {count} kills, {len(written)} characters")
    return {**result, "seconds": time.monotonic() - began, "faults": faults[:20]}


def _wait_for_model(client: httpx.Client) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if client.get("/api/state").json()["model"]["state"] == "ready":
            return
        time.sleep(0.02)
    raise RuntimeError("the studio's model was not loaded in 30 seconds")
