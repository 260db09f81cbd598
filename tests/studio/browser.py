"""A running studio and a watched page of it in Debian's Chromium, for tests."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scripted
from launches import ForkedCommand

HERE = Path(__file__).resolve().parent
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NO_OUTSIDE = "--proxy-server=http://127.0.0.1:9"
"""Flag by which nothing but loopback is reached: what asks outside is sent to where nobody is."""
TEXT = "studio.rooms.write.write.view.state.sliceDoc()"
"""JavaScript that gives the text of the editor, also what is not drawn."""
COUNT_REQUESTS = """(() => {
  const fetch = globalThis.fetch.bind(globalThis);
  const asked = { fetch, count: 0, open: 0, seen: 0, since: 0 };
  globalThis.asked = asked;
  globalThis.fetch = async (...request) => {
    asked.count++, asked.open++;
    try {
      return await fetch(...request);
    } finally {
      asked.open--;
    }
  };
})()"""
"""JavaScript that counts what a page asks; ``asked.fetch`` is not counted."""
QUIET = """(() => {
  const now = performance.now(), write = globalThis.studio?.rooms.write?.write;
  if (asked.open || write?.dirty() || asked.count !== asked.seen) asked.since = now;
  asked.seen = asked.count;
  return now - asked.since > 100;
})()"""
"""JavaScript that says, asked again and again, whether for a while nothing was asked or typed.

What the page asks because of an answer or an event, it asks within 20 ms.
"""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


def missing() -> str | None:
    """What a browser test needs and this machine lacks, as the reason why it is skipped."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no playwright: pip install --group browser"
    if chromium() is None:
        return "no chromium: apt-get install chromium, or name one in CWGPT_CHROMIUM"
    from creativewritinggpt.studio import assets

    if assets.missing():
        return "the page's libraries are not bundled: make studio-assets"
    return None


def chromium() -> str | None:
    """The browser."""
    named = os.environ.get("CWGPT_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


class RunningStudio:
    """A studio that runs as a process of its own.

    Args:
        folder: Its working folder.
        model: The model's folder.
        delay: Seconds that each step of the model takes longer.
        flags: Further flags of ``cwgpt studio``.
        story: Name of the story file.
        forked: Start it from a process that has imported everything; else by its command.
    """

    popen: subprocess.Popen[str] | ForkedCommand

    def __init__(
        self, folder: Path, model: Path | str, delay: float = 0.0, flags: tuple[str, ...] = (),
        story: str = "lighthouse.json", forked: bool = True,
    ) -> None:  # fmt: skip
        self.folder, self.model, self.delay, self.flags = folder, model, delay, flags
        self.forked = forked
        self.story_file = folder / story
        self.log = folder / "studio.log"
        self.port = 0
        self.url = ""
        self.start()

    def start(self, port: int = 0) -> None:
        """Start it, on a port; returns when it takes requests."""
        words = ["studio", "--model", str(self.model), "--story", str(self.story_file),
                 "--no-browser", "--port", str(port), "--device", "cpu", "--precision", "fp32",
                 "--num-workers", "1", *self.flags]  # fmt: skip
        if self.forked:
            slow_down = functools.partial(scripted.slow_down, self.delay)
            self.popen = ForkedCommand(words, self.folder, self.log, slow_down)
        else:
            command = [sys.executable, str(HERE / "scripted.py"), str(self.delay), *words]
            with self.log.open("a") as log:
                self.popen = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.folder
                )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        found = re.search(r"http://\S+#t=\S+", line)
        assert found, (line, self.log.read_text()[-2000:])
        self.url = found[0]
        port_number = urlsplit(self.url).port
        assert port_number
        self.port = port_number

    @property
    def origin(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def secret(self) -> str:
        """What is in the fragment of its address."""
        return self.url.partition("#t=")[2]

    def kill(self) -> None:
        """End it as a power cut would."""
        self.popen.kill()
        self.popen.wait(20)

    def restart(self) -> None:
        """Start it again on its port."""
        if self.popen.poll() is None:
            self.kill()
        self.start(self.port)

    def stop(self, number: int = signal.SIGINT, seconds: float = 20.0) -> int:
        """End it by a signal; its exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(seconds)

    def client(self) -> Any:
        """An HTTP client with the cookie."""
        import httpx

        client = httpx.Client(base_url=self.origin, headers={"origin": self.origin}, timeout=20)
        assert client.post("/api/login", json={"secret": self.secret}).status_code == 200
        return client

    def story_text(self) -> str:
        """The text in the story file, as the terminal session would show it."""
        from creativewritinggpt.story.file import read_story

        return read_story(self.story_file).text


class Watch:
    """What a page must not do: break its policy, log an error, throw, or ask outside."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.allowed: list[str] = []
        self.requests = 0

    def allow(self, pattern: str) -> None:
        """Let what matches pass from now on: for tests of what goes wrong on purpose."""
        self.allowed.append(pattern)

    def attach(self, context: Any) -> None:
        """Watch all pages of a browser context."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self._note(f"page error: {error.error}"))
        context.on("request", self._request)
        context.on("dialog", self._dialog)
        context.on("page", lambda page: page.on("websocket", lambda one: self._url(one.url)))
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error("
            "`policy: ${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`))"
        )
        context.add_init_script(COUNT_REQUESTS)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            place = message.location
            self._note(f"console: {message.text} ({place.get('url')}:{place.get('lineNumber')})")

    def _request(self, request: Any) -> None:
        self.requests += 1
        self._url(request.url)

    def _url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOOPBACK:
            self.wrong.append(f"outside: {url}")

    def _dialog(self, dialog: Any) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, text: str) -> None:
        self.wrong.append(text)

    def check(self) -> None:
        """Fail where something was wrong that was not allowed."""
        left = [one for one in self.wrong if not any(re.search(p, one) for p in self.allowed)]
        assert not left, "\n".join(left)


SERVER_GONE = r"ERR_CONNECTION|WebSocket connection|ERR_EMPTY_RESPONSE|ERR_SOCKET"
"""What a page logs whose server is gone."""


def open_page(context: Any, studio: RunningStudio, ready: bool = True) -> Any:
    """A page of a studio; waits until it takes keys, and the model is there."""
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(studio.url)
    if ready:
        story_box(page).wait_for()
        wait_for(page, "Boolean(globalThis.studio?.rooms.write)")  # the room is whole
        wait_for(
            page,
            "fetch('/api/state').then((a) => a.json()).then((s) => s.model.state === 'ready')",
            60.0,
        )
    return page


def story_box(page: Any) -> Any:
    """The text."""
    return page.get_by_role("textbox", name="Story")


def page_text(page: Any) -> str:
    """The whole text of the page's editor, also what is not drawn."""
    return str(page.evaluate(TEXT))


def wait_saved(page: Any, studio: RunningStudio, seconds: float = 10.0) -> str:
    """Wait until the page's text is the story file's; the text."""
    until = time.monotonic() + seconds
    while True:
        shown = page_text(page)
        kept = studio.story_text() if studio.story_file.exists() else ""
        if shown == kept:
            return shown
        assert time.monotonic() < until, (shown[-200:], kept[-200:])
        page.wait_for_timeout(20)


def idle(page: Any, seconds: float = 20.0) -> None:
    """Wait until nothing is asked of the studio, no job runs, and the page has seen all of it."""
    done = (
        "asked.fetch('/api/state').then((a) => a.json()).then((s) => s.n <= studio.events.n && "
        "!s.jobs.some((job) => ['queued', 'running'].includes(job.state)))"
    )
    while True:
        wait_for(page, QUIET, seconds)
        count = page.evaluate("asked.count")
        wait_for(page, done, seconds)
        if page.evaluate(f"{QUIET} && asked.count === {count}"):
            return


def wait_for(page: Any, expression: str, seconds: float = 15.0) -> Any:
    """Wait until JavaScript gives something true; the policy forbids Playwright's own way."""
    until = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < until, f"never true: {expression}"
        page.wait_for_timeout(20)
    return value


def wait_length(page: Any, length: int) -> str:
    """Wait until the page's text is longer than this; the text."""
    wait_for(page, f"{TEXT}.length > {length}")
    return page_text(page)


LOOKS = {
    "light": {"color_scheme": "light", "forced_colors": "none"},
    "dark": {"color_scheme": "dark", "forced_colors": "none"},
    "forced colours": {"color_scheme": "dark", "forced_colors": "active"},
}
COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""The rules of axe that depend on colours."""


def findings(page: Any, where: str, looks: tuple[str, ...] = tuple(LOOKS)) -> list[str]:
    """Serious findings of axe in a page as it is: of all rules, then of colours in other looks.

    Args:
        page: The page.
        where: What is shown, for the findings.
        looks: Names of :data:`LOOKS`; all rules are asked in the first one.
    """
    import axe_playwright_python

    if not page.evaluate("Boolean(globalThis.axe)"):
        page.evaluate(
            Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")
        )
    found = []
    for look in looks:
        page.emulate_media(reduced_motion="reduce", **LOOKS[look])
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if look != looks[0]:
            options["runOnly"] = {"type": "rule", "values": COLOUR_RULES}
        for one in page.evaluate("(options) => axe.run(document, options)", options)["violations"]:
            if one["impact"] in ("serious", "critical"):
                places = [node["html"][:160] for node in one["nodes"][:3]]
                found.append(f"{where}, {look}: {one['id']}: {places}")
    page.emulate_media(**LOOKS[looks[0]])
    return found


class HostilePage:
    """A page of another origin, served on a port of its own.

    Args:
        folder: Where its files lie.
        html: The page.
    """

    def __init__(self, folder: Path, html: str) -> None:
        import http.server

        (folder / "index.html").write_text(html, "utf-8")
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
