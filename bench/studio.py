"""The studio's page: how fast it opens, types, writes, shows heat, and what it survives.

    python bench/studio.py [--only start keys …] [--kills 200] [--seed 23] [--json]

Each row is printed with its target. Cases (Chromium, the starter):

- `assets`: kilobytes of all files that the page loads, compressed by gzip.
- `start`: seconds from the command to a page that takes keys, median of five.
- `keys`: milliseconds from a key to the end of the next paint in a story of 100,000 words, p95 of
  Chromium's trace of 100 keys.
- `heat`: milliseconds from the last figures of 1,000 words to the marks in the page.
- `first-token`: milliseconds from Continue to the first text on the WebSocket, after a new prompt
  of 500 tokens, beside the same from the Python API with the model loaded, by turns.
- `rate`: tokens a second of 200 tokens after such a prompt, beside the same from the Python API.
- `memory`: the page's heap after a collection, and its nodes, before and after 10,000 tokens of a
  model that writes as fast as the page takes it.
- `kills`: stories that could not be read, and accepted sentences that were gone, after kill -9 at
  random moments of a journey. Each journey follows from `--seed` and the kill's number;
  `--kills-folder` and `--first-kill` go on where a run ended.
"""

from __future__ import annotations

import argparse
import gzip
import json
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
from parrot import save_parrot  # noqa: E402
from studio_kills import kills  # noqa: E402
from studio_speed import Line, Speed  # noqa: E402

from creativewritinggpt.story.file import dump  # noqa: E402
from creativewritinggpt.story.tree import Story  # noqa: E402
from creativewritinggpt.studio.assets import WEB  # noqa: E402

SENTENCE = "The keeper climbed the stairs and looked over the grey water for a sail. "
WORDS = " The lamp went, out."
"""What the scripted model writes, over and over."""
END = "<|endoftext|>"
Result = dict[str, Any]
TARGETS: dict[str, tuple[str, Callable[[Result], bool]]] = {
    "assets": ("at most 600 kB", lambda row: row["kilobytes"] <= 600),
    "start": ("at most 3 s", lambda row: row["seconds"] <= 3),
    "keys": ("p95 at most 16 ms", lambda row: row["milliseconds_p95"] <= 16),
    "heat": ("at most 200 ms", lambda row: row["milliseconds"] <= 200),
    "first-token": ("at most 50 ms more than generate", lambda row: row["more"] <= 50),
    "rate": ("at least 95 % of generate", lambda row: row["ratio"] >= 0.95),
    "memory": (
        "flat: at most 1 kB a token, and no more nodes than 500",
        lambda row: row["bytes_a_token"] <= 1000 and row["more_nodes"] <= 500,
    ),
    "kills": (
        "no story unreadable, no accepted sentence lost, no fault",
        lambda row: not (row["unreadable"] or row["lost_sentences"] or row["faults"]),
    ),
}


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

    def studio(
        self, text: str = "", model: Path | None = None, flags: tuple[str, ...] = ()
    ) -> pages.RunningStudio:
        """A new studio with a story."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        if text:
            story = Story()
            story.edit(text)
            (folder / "lighthouse.json").write_text(dump(story), "utf-8")
        return pages.RunningStudio(folder, model or self.model, flags=flags)

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

    def speed(self, repeats: int, case: str) -> Result:
        """``first-token`` or ``rate``."""
        import torch

        threads = torch.get_num_threads()
        studio = self.studio(SENTENCE, flags=("--num-workers", str(threads), "--precision", "auto"))
        try:
            speed = Speed(studio, self.model, threads)
            return speed.first_token(repeats) if case == "first-token" else speed.rate(repeats)
        finally:
            studio.kill()

    def scripted(self) -> Path:
        """The folder of a model that writes :data:`WORDS`."""
        from tokenizers import ByteLevelBPETokenizer
        from transformers import PreTrainedTokenizerFast

        folder = self.folder / "parrot"
        if not folder.is_dir():
            folder.mkdir()
            words = ByteLevelBPETokenizer()
            texts = [WORDS] * 16 + [SENTENCE] * 8  # enough of them for 300 tokens
            words.train_from_iterator(
                texts, vocab_size=300, special_tokens=[END], show_progress=False
            )
            words.save(str(folder / "words.json"))
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_file=str(folder / "words.json"), eos_token=END, bos_token=END
            )
            save_parrot(folder, tokenizer, WORDS, 1024)
        return folder

    def memory(self, tokens: int) -> Result:
        """The page before and after many tokens, the first Continue not counted."""
        studio = self.studio(SENTENCE, model=self.scripted())
        try:
            page = pages.open_page(self.chromium.new_context(), studio)
            line = Line(studio, writes=False)  # the page writes
            each = min(1000, tokens)
            page.set_default_timeout(120_000)
            tools = page.context.new_cdp_session(page)
            tools.send("Performance.enable")
            tools.send("HeapProfiler.enable")
            self._continue(page, line, 100)
            before, written = self._page_size(tools), 0
            while written < tokens:
                written += self._continue(page, line, each)
            after = self._page_size(tools)
        finally:
            studio.kill()
        return {
            "tokens": written, "heap_bytes_before": before[0], "heap_bytes_after": after[0],
            "bytes_a_token": (after[0] - before[0]) / written,
            "nodes_before": before[1], "nodes_after": after[1], "more_nodes": after[1] - before[1],
        }  # fmt: skip

    def _continue(self, page: Any, line: Line, tokens: int) -> int:
        """Press Continue, wait until all of it is in the page; the number of tokens."""
        line.client.patch("/api/settings", json={"values": {"max_new_tokens": tokens}})
        since = len(line.events)
        page.get_by_role("button", name="Continue", exact=True).click()
        line.wait(lambda event: event["kind"] == "job" and event["state"] == "done", since)
        length = len(line.state()["story"]["text"])
        pages.wait_for(page, f"{pages.TEXT}.length === {length}", 30)
        pieces = [event for _, event in line.events[since:] if event["kind"] == "piece"]
        return sum(len(event["tokens"]) for event in pieces)

    def _page_size(self, tools: Any) -> tuple[float, float]:
        """Bytes of the page's heap after a collection, and its nodes."""
        for _ in range(3):
            tools.send("HeapProfiler.collectGarbage")
            time.sleep(0.5)
        found = tools.send("Performance.getMetrics")["metrics"]
        figures = {metric["name"]: metric["value"] for metric in found}
        return figures["JSHeapUsedSize"], figures["Nodes"]


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeats", type=int, default=7, help="turns of first-token and rate")
    parser.add_argument("--tokens", type=int, default=10_000, help="tokens of memory")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=23, help="of the journeys of kills")
    parser.add_argument("--first-kill", type=int, default=0, help="to go on where a run ended")
    parser.add_argument("--kills-folder", type=Path, help="where the killed studio's story stays")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    reason = pages.missing()
    if reason:
        sys.exit(reason)
    from playwright.sync_api import sync_playwright

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    on = machine()
    results: Result = {"machine": on}
    if not arguments.json:
        print(f"on {on['processor']}, {on['cores']} cores, {on['threads']} threads", flush=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=pages.chromium(), args=pages.FLAGS)
        bench = Bench(chromium, Path(folder), arguments.model)

        def killed() -> Result:
            place = arguments.kills_folder or Path(folder) / "killed"
            place.mkdir(parents=True, exist_ok=True)
            return kills(place.resolve(), bench.scripted(), arguments.kills, arguments.seed,
                         arguments.first_kill, say)  # fmt: skip

        cases: dict[str, Callable[[], Result]] = {
            "assets": assets, "start": bench.start, "keys": bench.keys, "heat": bench.heat,
            "first-token": lambda: bench.speed(arguments.repeats, "first-token"),
            "rate": lambda: bench.speed(arguments.repeats, "rate"),
            "memory": lambda: bench.memory(arguments.tokens), "kills": killed,
        }  # fmt: skip
        for name in arguments.only:
            target, met = TARGETS[name]
            row = cases[name]()
            results[name] = {**row, "target": target, "met": met(row)}
            if not arguments.json:
                said = "met" if met(row) else "MISSED"
                print(f"{name}: {json.dumps(row)}; target {target}: {said}", flush=True)
        chromium.close()
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
