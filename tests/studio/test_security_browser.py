"""What pages of other origins, hostile texts and reports can do in a real browser: nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from browser import HostilePage, idle, open_page, story_box, wait_for, wait_saved

from creativewritinggpt.story.file import dump
from creativewritinggpt.story.tree import Lore, Story

pytestmark = pytest.mark.browser

ATTACK = """<!doctype html><title>waiting</title><body><script>
const late = (go) => setTimeout(() => go("late"), 5000);
const wait = (work) => Promise.race([work, new Promise(late)]);
async function asked(url, options) {
  try {
    const answer = await fetch(url, options);
    return answer.type === "opaque" ? "opaque" : "read " + answer.status;
  } catch { return "refused"; }
}
const socket = (url) => new Promise((go) => {
  const one = new WebSocket(url);
  one.onopen = () => go("open");
  one.onerror = () => go("refused");
});
const image = (url) => new Promise((go) => {
  const one = new Image();
  one.onload = () => go("shown");
  one.onerror = () => go("refused");
  one.src = url;
});
const frame = (url) => new Promise((go) => {
  const one = document.createElement("iframe");
  one.src = url;
  one.onload = () => {
    try { go(one.contentDocument.body ? "read" : "none"); } catch { go("refused"); }
  };
  document.body.append(one);
});
(async () => {
  const found = {};
  for (const host of HOSTS) {
    const at = "http://" + host + ":PORT", ws = "ws://" + host + ":PORT";
    const json = {
      method: "POST", credentials: "include", headers: { "content-type": "application/json" },
      body: '{"title": "stolen", "tab": "x"}',
    };
    found[host] = [
      await wait(asked(at + "/api/state", { credentials: "include" })),
      await wait(asked(at + "/api/story/set", json)),
      await wait(asked(at + "/api/story/set", { ...json, headers: {}, mode: "no-cors" })),
      await wait(socket(ws + "/api/events?since=0&epoch=&tab=evil")),
      await wait(image(at + "/icon.svg")),
      await wait(frame(at + "/")),
    ];
  }
  document.title = JSON.stringify(found);
})();
</script>"""


def test_a_foreign_page_and_a_rebound_name_get_nothing(
    studio: Any, chromium: Any, tmp_path: Path
) -> None:
    """By another port of loopback, and by a name that its owner has pointed at 127.0.0.1."""
    running = studio()
    client = running.client()
    hosts = ["127.0.0.1", "localhost", "evil.test"]
    site = HostilePage(tmp_path, ATTACK.replace("HOSTS", json.dumps(hosts)).replace(
        "PORT", str(running.port)))  # fmt: skip
    launched = chromium.browser_type.launch(
        executable_path=browsers.chromium(),
        args=[*browsers.FLAGS, "--host-resolver-rules=MAP evil.test 127.0.0.1"],
    )
    try:
        context = launched.new_context()
        open_page(context, running, ready=False)  # logged in: the cookie is there
        page = context.new_page()
        for origin in (f"http://127.0.0.1:{site.port}", f"http://evil.test:{site.port}"):
            page.goto(origin)
            wait_for(page, "document.title !== 'waiting'", 60)
            for host, results in json.loads(page.title()).items():
                state, json_post, form_post, socket, image, frame = results
                assert state == json_post == socket == "refused", (origin, host, results)
                assert form_post in ("refused", "opaque"), (origin, host, results)
                assert image == "refused" and frame in ("refused", "late"), (origin, host, results)
        page.goto(f"http://evil.test:{running.port}/")  # the name itself, rebound
        assert "does not answer to that name" in page.content()
    finally:
        launched.close()
        site.close()
    story = client.get("/api/state").json()["story"]
    assert story["title"] == "" and story["text"] == ""


PAYLOADS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "<svg onload=alert(3)>",
    '"><iframe srcdoc="<script>alert(4)</script>">', "javascript:alert(5)",
    "<a href=javascript:alert(6)>x</a>", "${alert(7)}", "{{constructor.constructor('alert(8)')()}}",
    "<style>*{display:none}</style>", "<base href=//evil.test>", 
    "&lt;script&gt;alert(9)&lt;/script&gt;",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(10)>",
    "\u202e<script>alert(11)</script>", "]]><script>alert(12)</script>", "<!--?lit$1$-->",
]  # fmt: skip


def test_hostile_text_is_shown_as_text_everywhere(
    studio: Any, page_of: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "stories").mkdir()
    story = Story()
    everything = "\n".join(PAYLOADS)
    story.edit(everything)
    story.set(
        "set", memory=everything, note=PAYLOADS[1], title=PAYLOADS[0],
        lore=tuple(Lore((text,), text, True) for text in PAYLOADS[:4]),
    )  # fmt: skip
    (folder / "lighthouse.json").write_text(dump(story), "utf-8")
    for name in ("<img src=x onerror=alert(20)>.json", "'\"><svg onload=alert(21)>.json"):
        (folder / "stories" / name.replace("/", "_")).write_text(dump(story), "utf-8")
    run = folder / "outputs" / "<img src=x onerror=alert(22)>"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("model: '<script>alert(23)</script>'\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": "<script>alert(24)</script>"}\n')
    running = studio(folder=folder)
    page = page_of(running)
    assert "<script>alert(1)</script>" in story_box(page).inner_text()
    for name in ("Train", "Judge", "Explain", "Library", "Write"):
        page.get_by_role("tab", name=name).click()
        page.get_by_role("tabpanel", name=name).wait_for()
        idle(page)
    story_box(page).click()
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Enter")
    idle(page)
    for name in ("Heat", "Why", "Branch"):
        button = page.get_by_role("button", name=name, exact=True)
        if button.count() and button.first.is_enabled():
            button.first.click()
            idle(page)
    idle(page)
    assert (
        page.evaluate("document.querySelectorAll('img[src=x], iframe[srcdoc], base').length") == 0
    )
    wait_saved(page, running)


def test_two_studios_side_by_side(studio: Any, new_context: Any) -> None:
    first, second = studio(), studio()
    context = new_context()
    pages = [open_page(context, one) for one in (first, second)]
    for number, (page, running) in enumerate(zip(pages, (first, second), strict=True)):
        page.bring_to_front()
        story_box(page).click()
        page.keyboard.type(f"Story {number}.")
        wait_saved(page, running)
    names = {one["name"] for one in context.cookies()}
    assert names == {f"cwgpt-studio-{first.port}", f"cwgpt-studio-{second.port}"}
    assert first.story_text() == "Story 0." and second.story_text() == "Story 1."
