"""The page's modules that need no browser, tested by Node's own runner."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from creativewritinggpt.studio import assets

FOLDER = Path(__file__).parent / "web"


def test_page_modules_pass_their_own_tests() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    if assets.missing():
        pytest.skip("the page's libraries are not bundled: make studio-assets")
    files = sorted(FOLDER.glob("*.test.mjs"))
    assert files
    command = [node, "--import", (FOLDER / "vendor.mjs").as_uri(), "--test", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def imported(module: str) -> list[str]:
    """What a module of the page imports at once, by its path in ``web``."""
    text = (assets.WEB / module).read_text("utf-8")
    found = re.findall(r"""^(?:import|export)\b[^;]*?["']([^"']+\.js)["'];""", text, re.MULTILINE)
    here = (assets.WEB / module).parent
    paths = [assets.WEB / one[1:] if one.startswith("/") else here / one for one in found]
    return [path.resolve().relative_to(assets.WEB.resolve()).as_posix() for path in paths]


def test_the_page_asks_for_all_modules_of_the_room_write_at_once() -> None:
    html = (assets.WEB / "index.html").read_text("utf-8")
    asked = re.findall(r'<link rel="modulepreload"[^>]* href="/([^"]+)">', html)
    needed, left = set(), ["app.js", "write/room.js", "write/insight.js"]
    while left:
        module = left.pop()
        if module in needed:
            continue
        needed.add(module)
        if not module.startswith("vendor/"):
            left += imported(module)
    assert len(needed) > 20
    assert sorted(asked) == sorted(needed - {"app.js"})
    styles = re.findall(r'<link rel="stylesheet" href="/(write/[^"]+)">', html)
    assert styles == ["write/write.css", "write/insight.css"]
