"""The documentation as a web site: ``python docs/site.py`` builds ``site/`` and checks its links.

The build needs no network, and neither do the pages: a page that would load something from
elsewhere is an error, as is a link to a page, an anchor or a picture that is not there.
"""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
# What a page loads by itself, in contrast to where its reader may go.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
NOT_LOADED = {"canonical", "next", "prev", "alternate", "edit"}


class _Page(HTMLParser):
    """Links, loaded addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        for name in ("href", "src"):
            if name not in found or found.get("rel") in NOT_LOADED:
                continue
            (self.loaded if (tag, name) in LOADED else self.links).append(found[name])


def problems(site: Path) -> list[str]:
    """What is wrong with the links of the pages of a site."""
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                found.append(f"{name} loads {address}")
        # The page for missing pages has absolute links, which a server resolves.
        for address in page.loaded + page.links if path.name != "404.html" else ():
            parts = urlsplit(address)
            if parts.scheme or address.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                found.append(f"{name}: no {address}")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors | {"__skip"}
            ):
                found.append(f"{name}: no anchor {address}")
    return found


def main() -> int:
    """Build and check."""
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([str(zensical), "build", "--strict", "--clean"], cwd=ROOT, check=False)
    if built.returncode:
        return built.returncode
    wrong = problems(SITE)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"site/: {len(list(SITE.rglob('*.html')))} pages, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
