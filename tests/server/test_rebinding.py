"""A page on the web, in a real browser, can neither read nor use a server on loopback."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><title>waiting</title><script>
const body = JSON.stringify({prompt: "x", max_tokens: 1});
async function tried(url, options) {
  try { const a = await fetch(url, options); return a.type === "opaque" ? "opaque" : a.status; }
  catch (error) { return "refused"; }
}
(async () => {
  const direct = "http://127.0.0.1:PORT/v1/completions", bound = "http://evil.test:PORT/v1/completions";
  const json = {method: "POST", headers: {"Content-Type": "application/json"}, body};
  const form = {method: "POST", mode: "no-cors", body};
  document.title = "done";
  document.body.textContent = JSON.stringify([
    await tried(direct, json), await tried(bound, json),
    await tried(direct, form), await tried(bound, form)]);
})();
</script><body></body>"""


def test_a_foreign_page_and_a_rebound_name_are_refused(
    server: Callable[..., Any], tmp_path: Path
) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    running = server("--weights", "fp32")
    port = urlsplit(running.url).port
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text(PAGE.replace("PORT", str(port)))
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "page")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        out = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}",
             "--host-resolver-rules=MAP evil.test 127.0.0.1",
             f"http://evil.test:{site.server_port}/"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        site.shutdown()
    import httpx

    stats = httpx.get(f"{running.url}/stats").json()
    assert "refused" in out.stdout, out.stdout[-500:] + out.stderr[-500:]
    assert "200" not in out.stdout.partition("<body>")[2]
    assert stats["generation_tokens_total"] == {}  # nothing was written for that page
    assert sum(stats["rejected_total"].values()) >= 2
