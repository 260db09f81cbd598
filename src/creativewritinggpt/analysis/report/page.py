"""``report.html``: one page that opens from disk and shows what each written word came from.

Everything is inside the file: the record, the style and the script, of which the content policy
names the hash, so that the page fetches nothing and runs nothing else. A browser from the last four
years is enough. What the page costs is exactness in the attention weights (8 bits) and, in very
long texts, the single heads; ``results.json`` has the scores in full.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from ...files import write_text
from .page_data import page_data

# In the order in which they build on each other.
SCRIPTS = ("record", "theme", "scores", "text", "panel", "canvases", "sections", "page")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def _read(name: str) -> str:
    return (resources.files(__package__) / "web" / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """JSON that can't end the script element that it stands in, in ASCII only."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _title(record: dict[str, Any]) -> str:
    text = " ".join(str(record["text"]).split())
    short = text if len(text) <= 60 else text[:59].rstrip() + "…"
    return f"Why these words? {short}".encode("utf-8", "replace").decode("utf-8")


def page(record: dict[str, Any]) -> str:
    """The page as text.

    Args:
        record: The full record of an explanation, as in ``results.json``; ``attention`` may hold
            ``rows`` (and ``base_rows``) besides: the weights from the place before each target to
            each input, ``[layers, heads, targets, tokens]``.
    """
    script = "(() => {\n" + "\n".join(_read(f"{name}.js") for name in SCRIPTS) + "})();"
    body = f'\n"use strict";\n{script}\n'
    digest = base64.b64encode(hashlib.sha256(body.encode("utf-8")).digest()).decode("ascii")
    parts = {
        "title": html.escape(_title(record)),
        "css": _read("page.css"),
        "hash": f"sha256-{digest}",
        "record": _embedded(page_data(record)),
        "script": body.strip("\n"),
    }
    return _PLACE.sub(lambda match: parts[match.group(1)], _read("template.html"))


def write_page(record: dict[str, Any], path: Path) -> None:
    """Write the page, all of it or nothing.

    Args:
        record: As for ``page``.
        path: Where it goes, as ``results/report.html``.

    Raises:
        InputError: The path can't be written.
        RunError: The disk is full.
    """
    write_text(path, page(record))
