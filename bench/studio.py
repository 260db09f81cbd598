"""The studio's page: how fast it opens, types, shows heat, and what it survives.

    python bench/studio.py [--only start keys …] [--kills 200] [--json]

Cases (Chromium, the starter):

- `start`: seconds from the command to a page that takes keys, median of five.
- `keys`: milliseconds from a key to the end of the next paint in a story of 100,000 words, p95 of
  Chromium's trace of 100 keys.
- `heat`: milliseconds from the last figures of 1,000 words to the marks in the page.
- `kills`: stories that could not be read after kill -9 at random moments of writing.
- `assets`: kilobytes of all files that the page loads, compressed by gzip.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "studio")]

import browser as pages  # noqa: E402
from measuring import machine  # noqa: E402

from creativewritinggpt.story.file import dump, read_story  # noqa: E402
from creativewritinggpt.story.tree import Story  # noqa: E402
from creativewritinggpt.studio.assets import WEB  # noqa: E402

SENTENCE = "The keeper climbed the stairs and looked over the grey water for a sail. "
Result = dict[str, Any]


def assets() -> Result:
    """All files of the page."""
    files = [
        file for file in WEB.rglob("*")
        if file.suffix in (".js", ".css", ".html", ".svg") and "node_modules" not in file.parts
    ]  # fmt: skip
    return {"kilobytes": sum(len(gzip.compress(file.read_bytes())) for file in files) / 1000}


class Bench:
    """A browser and a folder for the cases.

    Args:
        chromium: The browser.
        folder: Where stories are written.
        model: The model.
    """

    def __init__(self, chromium: Any, folder: Path, model: str) -> None:
        self.chromium, self.folder, self.model = chromium, folder, model
        self.count = 0

    def studio(self, text: str = "", delay: float = 0.0) -> pages.RunningStudio:
        """A new studio with a story."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        if text:
            story = Story()
            story.edit(text)
            (folder / "lighthouse.json").write_text(dump(story), "utf-8")
        return pages.RunningStudio(folder, self.model, delay)

    def start(self) -> Result:
        """Until the page takes keys."""
        times = []
        for _ in range(5):
            context = self.chromium.new_context()
            began = time.perf_counter()
            studio = self.studio()
            page = pages.open_page(context, studio, ready=False)
            pages.story_box(page).click()
            page.keyboard.type("a")
            pages.wait_for(page, f"globalThis.studio?.rooms.write && {pages.TEXT} === 'a'")
            times.append(time.perf_counter() - began)
            studio.kill()
            context.close()
        return {"seconds": statistics.median(times)}

    def keys(self) -> Result:
        """From a key to its paint, in a long story."""
        studio = self.studio("\n\n".join([SENTENCE * 8] * (100_000 // (8 * 14))))
        page = pages.open_page(self.chromium.new_context(), studio)
        pages.story_box(page).click()
        page.keyboard.press("Control+End")
        page.wait_for_timeout(1500)
        categories = ["devtools.timeline"]
        self.chromium.start_tracing(page=page, categories=categories)
        for number in range(100):
            page.keyboard.press("abcdefgh "[number % 9])
            page.wait_for_timeout(80)
        trace = json.loads(self.chromium.stop_tracing())["traceEvents"]
        studio.kill()
        return {"milliseconds_p95": _percentile(_key_times(trace), 0.95)}

    def heat(self) -> Result:
        """From the last figures to the marks."""
        studio = self.studio(SENTENCE * 72)
        page = pages.open_page(self.chromium.new_context(), studio)
        page.evaluate(
            "globalThis.heatAt = 0, studio.events.on('heat', () => { heatAt = performance.now();"
            " requestAnimationFrame(() => setTimeout(() => { drawnAt = performance.now(); })); }),"
            " globalThis.drawnAt = 0"
        )
        page.get_by_role("button", name="Heat", exact=True).click()
        pages.idle(page, 60)
        page.wait_for_timeout(500)
        waited = page.evaluate("drawnAt - heatAt")
        studio.kill()
        return {"milliseconds": waited}

    def kills(self, count: int) -> Result:
        """Stories after kill -9 at random moments."""
        draw = random.Random(23)
        studio = self.studio(SENTENCE)
        broken, shorter, kept = 0, 0, SENTENCE
        for number in range(count):
            client = studio.client()
            state = client.get("/api/state").json()["story"]
            body = {"revision": state["revision"], "tab": "bench"}
            end = len(state["text"])
            client.post("/api/tabs/write", json={"tab": "bench"})
            change = [[end, end, f" Line {number}."]]
            saved = client.post("/api/story/edit", json={**body, "changes": change})
            if saved.is_success:
                kept = state["text"] + f" Line {number}."
            client.post("/api/story/continue", json={"tab": "bench"})
            time.sleep(draw.random() * 0.5)
            studio.kill()
            try:
                shorter += not read_story(studio.story_file).text.startswith(kept[:-20])
            except Exception:
                broken += 1
            studio.restart()
        studio.kill()
        return {"kills": count, "unreadable": broken, "shorter_than_saved": shorter}


def _key_times(trace: list[dict[str, Any]]) -> list[float]:
    """Milliseconds from each key event to the end of the paint after it."""
    keys = [
        event["ts"] for event in trace
        if event.get("name") == "EventDispatch"
        and event.get("args", {}).get("data", {}).get("type") == "keydown"
    ]  # fmt: skip
    paints = sorted(
        event["ts"] + event.get("dur", 0) for event in trace if event.get("name") == "Paint"
    )
    found = []
    for key in keys:
        after = next((end for end in paints if end >= key), None)
        if after is not None:
            found.append((after - key) / 1000)
    return found


def _percentile(values: list[float], share: float) -> float:
    if not values:
        raise SystemExit("the trace holds no key")
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure and print."""
    names = ("assets", "start", "keys", "heat", "kills")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    reason = pages.missing()
    if reason:
        sys.exit(reason)
    from playwright.sync_api import sync_playwright

    results: Result = {"machine": machine()}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=pages.chromium(), args=pages.FLAGS)
        bench = Bench(chromium, Path(folder), arguments.model)
        cases: dict[str, Callable[[], Result]] = {
            "assets": assets, "start": bench.start, "keys": bench.keys, 
            "heat": bench.heat, "kills": lambda: bench.kills(arguments.kills),
            
        }  # fmt: skip
        for name in arguments.only:
            results[name] = cases[name]()
            if not arguments.json:
                print(name, json.dumps(results[name]), flush=True)
        chromium.close()
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
