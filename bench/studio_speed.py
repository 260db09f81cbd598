"""How fast the studio writes, against the same model in this process: by turns, from one prompt.

What a writer waits for goes over the studio's API: a command by HTTP, its pieces by the WebSocket.
The Python API writes what ``cwgpt generate`` writes, without the start of a process.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import browser as pages
import psutil
from generate_contenders import sample_prompts

REST = 1.0
"""Seconds after an edit in which the studio begins to read the text."""
QUIET = 0.4
"""Seconds without work that end a wait: longer than the studio's pause before it reads ahead."""
Event = dict[str, Any]


class Line:
    """The requests and the events of a studio, as a tab of the page has them.

    Every event that came is kept with its time: those of a job may come before the answer that
    says its id.

    Args:
        studio: The studio.
        tab: Id of the tab.
        writes: Whether it is the tab that writes; otherwise it looks on while a page does.
    """

    def __init__(
        self, studio: pages.RunningStudio, tab: str = "bench", writes: bool = True
    ) -> None:
        from websockets.sync.client import connect

        self.tab = tab
        self.client = studio.client()
        cookie = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        self.events: list[tuple[float, Event]] = []
        self._news = threading.Condition()
        self._socket = connect(
            f"ws://127.0.0.1:{studio.port}/api/events?tab={tab}", origin=studio.origin,
            additional_headers={"Cookie": cookie}, proxy=None, max_size=None,
        )  # fmt: skip
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()
        self.wait(lambda event: event["kind"] == "hello")
        if writes:
            self.post("/api/tabs/write")

    def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            for text in self._socket:
                now, found = time.perf_counter(), json.loads(text)
                with self._news:
                    listed = found if isinstance(found, list) else [found]
                    self.events += [(now, event) for event in listed]
                    self._news.notify_all()
        except ConnectionClosed:
            pass
        with self._news:
            self._closed = True
            self._news.notify_all()

    def close(self) -> None:
        """Leave."""
        self._socket.close()
        self.client.close()

    def wait(
        self, wanted: Callable[[Event], bool], since: int = 0, seconds: float = 120.0
    ) -> tuple[float, Event]:
        """The first event that is wanted, after the first ``since`` ones, and when it came.

        Raises:
            RuntimeError: The studio closed the line, or nothing came in time.
        """
        until = time.monotonic() + seconds
        at = since
        with self._news:
            while True:
                for found in self.events[at:]:
                    if wanted(found[1]):
                        return found
                at = len(self.events)
                left = until - time.monotonic()
                if self._closed or left <= 0:
                    last = [event for _, event in self.events[-3:]]
                    raise RuntimeError(f"the studio did not answer; the last events: {last}")
                self._news.wait(left)

    def post(self, path: str, **body: Any) -> Event:
        """A command of this tab; its answer."""
        answer = self.client.post(path, json={"tab": self.tab, **body})
        if not answer.is_success:
            raise RuntimeError(f"{path}: {answer.text}")
        return dict(answer.json())

    def state(self) -> Event:
        """The state."""
        return dict(self.client.get("/api/state").json())

    def ready(self, seconds: float = 120.0) -> None:
        """Wait for the model."""
        until = time.monotonic() + seconds
        while (model := self.state()["model"])["state"] != "ready":
            if model["state"] == "failed" or time.monotonic() > until:
                raise RuntimeError(f"the model is {model['state']}: {model['message']}")
            time.sleep(0.05)

    def replace(self, text: str) -> None:
        """Another text in place of the whole story's."""
        story = self.state()["story"]
        length = len(story["text"].encode("utf-16-le")) // 2
        self.post("/api/story/edit", revision=story["revision"], changes=[[0, length, text]])

    def go_on(self, tokens: int, seed: int) -> tuple[float, float, int]:
        """Let the model go on.

        Returns:
            Seconds to the first piece, to the last one, and the number of tokens.
        """
        since = len(self.events)
        began = time.perf_counter()
        job = self.post("/api/story/continue", tokens=tokens, seed=seed)["job"]

        def over(event: Event) -> bool:
            states = ("done", "stopped", "failed")
            return event["kind"] == "job" and event["id"] == job and event["state"] in states

        _, end = self.wait(over, since)
        if end["state"] != "done":
            raise RuntimeError(f"the writing is {end['state']}: {end['message']}")
        pieces = [
            (when, event) for when, event in self.events[since:]
            if event["kind"] == "piece" and event["job"] == job
        ]  # fmt: skip
        count = sum(len(event["tokens"]) for _, event in pieces)
        return pieces[0][0] - began, pieces[-1][0] - began, count


class Speed:
    """A studio and the same model here, in the precision of the default and with as many threads.

    Args:
        studio: The studio.
        model: Name of the model.
        threads: The number of threads.
    """

    def __init__(self, studio: pages.RunningStudio, model: str, threads: int) -> None:
        from creativewritinggpt.config.fields import MachineSettings
        from creativewritinggpt.generation.sampling.settings import GenerationSettings
        from creativewritinggpt.models.loading import load_from_settings

        self.line = Line(studio)
        self.line.ready()
        self.process = psutil.Process(studio.popen.pid)
        machine = MachineSettings(device="cpu", precision="auto", num_workers=threads)
        self.model = load_from_settings(model, machine)
        values = self.line.state()["settings"]["values"]
        self.settings = GenerationSettings().changed(values)
        self.prompts = sample_prompts(500)

    def first_token(self, repeats: int) -> dict[str, float]:
        """Milliseconds to the first token after a new prompt of 500 tokens, medians.

        Returns:
            Of the studio right after the edit (``studio``) and after a pause of the writer, in
            which it has read the text (``studio_rested``); of this process (``generate``); and
            the median of what the studio needed more on the same prompt (``more``).
        """
        found: dict[str, list[float]] = {"studio": [], "studio_rested": [], "generate": []}
        for turn in range(repeats + 1):
            prompt, seed = self.prompts[turn % len(self.prompts)], 100 + turn
            self._wait_until_quiet()
            found["generate"].append(self._here(prompt, 8, seed)[0])
            self._wait_until_quiet()
            self.line.replace(prompt)
            found["studio"].append(self.line.go_on(8, seed)[0])
            self._wait_until_quiet()
            self.line.replace(" ".join(reversed(prompt.split())))  # as long, and not yet read
            time.sleep(REST)
            self._wait_until_quiet()
            found["studio_rested"].append(self.line.go_on(8, seed)[0])
        kept = {name: values[1:] for name, values in found.items()}  # the first is a warm-up
        pairs = zip(kept["studio"], kept["generate"], strict=True)
        result = {name: 1000 * statistics.median(values) for name, values in kept.items()}
        result["more"] = 1000 * statistics.median(mine - other for mine, other in pairs)
        return result

    def rate(self, repeats: int, tokens: int = 200) -> dict[str, float]:
        """Tokens a second of a continuation, the prompt's time included, medians."""
        found: dict[str, list[float]] = {"studio": [], "generate": []}
        self.line.client.patch("/api/settings", json={"values": {"min_new_tokens": tokens}})
        for turn in range(repeats + 1):
            prompt, seed = self.prompts[-1 - turn % len(self.prompts)], 200 + turn
            self._wait_until_quiet()
            here = self._here(prompt, tokens, seed, tokens)
            self._wait_until_quiet()
            self.line.replace(prompt)
            there = self.line.go_on(tokens, seed)
            for name, (_, seconds, count) in (("generate", here), ("studio", there)):
                found[name].append(count / seconds)
        self.line.client.patch("/api/settings", json={"values": {"min_new_tokens": 0}})
        result = {name: statistics.median(values[1:]) for name, values in found.items()}
        pairs = zip(found["studio"][1:], found["generate"][1:], strict=True)
        result["ratio"] = statistics.median(mine / other for mine, other in pairs)
        return result

    def _wait_until_quiet(self) -> None:
        """Wait until neither the studio nor this process computes; threads may wait busily."""
        own = psutil.Process()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            before = sum(sum(one.cpu_times()[:2]) for one in (self.process, own))
            time.sleep(QUIET)
            after = sum(sum(one.cpu_times()[:2]) for one in (self.process, own))
            if after - before <= 0.05 * QUIET:
                return
        raise RuntimeError("the studio does not come to rest")

    def _here(
        self, prompt: str, tokens: int, seed: int, least: int = 0
    ) -> tuple[float, float, int]:
        """The same in this process: seconds to the first piece, to the last, number of tokens."""
        from creativewritinggpt.generation.engine import stream

        asked = self.settings.changed(
            {"max_new_tokens": tokens, "min_new_tokens": least, "seed": seed}
        )
        began = time.perf_counter()
        first, count = 0.0, 0
        for piece in stream(self.model, prompt, asked):
            if not first and piece.text:
                first = time.perf_counter() - began
            count += len(piece.tokens)
        return first, time.perf_counter() - began, count
