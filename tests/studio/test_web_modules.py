"""The page's modules that need no browser, tested by Node's own runner."""

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
