"""HTML pages that are one file: head, colours, typography, data and script in it, nothing fetched.

Colours are CSS variables named as in ``plotting.LIGHT``; a page follows the system's light or dark
mode, or ``data-theme`` of its root element. The content policy allows no connection and no script
but the page's own, which it names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

from .plotting import DARK, LIGHT

_BASE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; margin: 0 0 0.4rem; }
h3 { font-size: 0.95rem; margin: 1.3rem 0 0.4rem; }
p { margin: 0 0 0.6rem; max-width: 78ch; }
.quiet, figcaption { color: var(--quiet); font-size: 0.9rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { color: var(--quiet); font-weight: 600; }
"""


def escape(text: str) -> str:
    """A text for HTML; half characters (lone surrogates) become question marks."""
    return html.escape(text).encode("utf-8", "replace").decode("utf-8")


def embedded_json(value: Any) -> str:
    """JSON that can't end the script element that it stands in, in ASCII only."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def html_page(title: str, body: str, style: str = "", *, data: Any = None, script: str = "") -> str:
    """A whole page.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS of the page, after the common one.
        data: What the script reads as JSON from the element ``record``.
        script: JavaScript.
    """
    parts = [body]
    allowed = "'none'"
    if script:
        content = f"\n{script}\n"
        digest = hashlib.sha256(content.encode("utf-8")).digest()
        allowed = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
        parts += [
            f'<script type="application/json" id="record">{embedded_json(data)}</script>',
            f"<script>{content}</script>",
        ]
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{escape(title)}</title>\n<style>{_colours()}{_BASE}{style}</style>",
            "</head>\n<body>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def _colours() -> str:
    """The palette as CSS variables, light and dark."""
    light, dark = (
        "; ".join(f"--{name}: {colour}" for name, colour in colours.items())
        for colours in (LIGHT, DARK)
    )
    return f"""
:root {{ color-scheme: light; {light}; }}
@media (prefers-color-scheme: dark) {{
  :root:not([data-theme]) {{ color-scheme: dark; {dark}; }}
}}
:root[data-theme="dark"] {{ color-scheme: dark; {dark}; }}
"""
