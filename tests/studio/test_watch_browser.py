"""The watch over every page of these tests: whatever a page must not do fails its test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

DEEDS = {
    "nothing": ("studio", "document.title"),
    "inline handler": ("studio", "try { document.body.setAttribute('onclick', 'x()') } catch {}"),
    "foreign image": ("studio", "(new Image()).src = 'http://192.0.2.1/x.png'"),
    "text as script": ("studio", "try { document.body.innerHTML = '<b>x</b>' } catch {}"),
    "console error": ("studio", "console.error('something')"),
    "error": ("studio", "setTimeout(() => { throw new Error('something') })"),
    "rejection": ("studio", "void Promise.reject(new Error('something'))"),
    "dialog": ("studio", "alert('something')"),
    "request": ("blank", "void fetch('http://192.0.2.1/').catch(() => {})"),
    "request by name": ("blank", "navigator.sendBeacon('http://example.org/')"),
    "socket": ("blank", "void new WebSocket('ws://192.0.2.1/')"),
}
"""What a page does, and where; 192.0.2.1 belongs to nobody, and is kept for documentation."""

INNER = """
import pytest

@pytest.fixture
def chromium(outer):
    return outer.chromium

def test_deed(deed, outer, new_context, watch):
    watch.allow("favicon")  # of a page that is no page of the studio
    place, script = deed
    page = new_context().new_page()
    page.goto(outer.address if place == "studio" else "about:blank")
    page.evaluate(script)
    page.wait_for_timeout(100)
"""


class Outer:
    """What the inner run of pytest gets, and what became of its tests."""

    def __init__(self, chromium: Any, address: str) -> None:
        self.chromium, self.address = chromium, address
        self.failed: dict[str, str] = {}
        self.passed: set[str] = set()

    @pytest.fixture
    def outer(self) -> Outer:
        return self

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("deed", list(DEEDS.values()), ids=list(DEEDS))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[2].rstrip("]")
        if report.failed:
            self.failed[name] = report.longreprtext
        elif report.when == "teardown":
            self.passed.add(name)


def test_each_deed_that_a_page_must_not_do_fails_its_test(
    studio: Any, chromium: Any, tmp_path: Path
) -> None:
    """Tests run by pytest within this one, with the fixtures of this folder."""
    folder = tmp_path / "inner"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_inner.py").write_text(INNER)
    # Any answer of the studio has its policy.
    outer = Outer(chromium, f"{studio().origin}/vendor/LICENSES.txt")
    words = [str(folder), "-c", "/dev/null", "--rootdir", str(folder), "-p", "no:cacheprovider"]
    pytest.main([*words, "-q", "--no-header"], plugins=[outer])
    assert outer.passed == {"nothing"}
    assert set(outer.failed) == set(DEEDS) - {"nothing"}
    for name, (place, _) in DEEDS.items():
        assert place != "blank" or "outside: " in outer.failed[name], outer.failed[name]
