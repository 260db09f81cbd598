"""Write what is made from the code: ``docs/cli.md`` and the table of ``docs/configuration.md``.

``python docs/generate.py`` writes; ``python docs/generate.py --check`` names stale pages and exits
with 1.
"""

import re
import sys
from pathlib import Path

from creativewritinggpt.cli.main import VERBS, build_parser, default_of
from creativewritinggpt.config.fields import fields_of
from creativewritinggpt.config.run import Config

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- settings: made by docs/generate.py -->", "<!-- end of settings -->"


def command_page() -> str:
    """``docs/cli.md``: the help of ``cwgpt`` and of every verb."""
    parts = [
        "# Commands",
        "",
        "Made from the real help by `make docs`; a check keeps it so. `python train.py`, "
        "`python generate.py`, `python evaluate.py` and `python analysis.py` take the same flags.",
        "",
        "```",
        build_parser().format_help().rstrip(),
        "```",
    ]
    for verb in VERBS:
        sub = build_parser(verb).verb(verb)
        assert sub is not None
        parts += ["", f"## cwgpt {verb}", "", "```", sub.format_help().rstrip(), "```"]
    return "\n".join(parts) + "\n"


def settings_table() -> str:
    """The settings of a run as a Markdown table."""
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    for field in fields_of(Config):
        value = default_of(field)
        shown = "" if value is None else f"`{value}`"
        text = str(field.metadata["help"]).replace("|", "\\|")
        choices = field.metadata.get("choices")
        if choices:
            text += " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
        lines.append(f"| `{field.name}` | {shown} | {text} |")
    return "\n".join(lines)


def configuration_page() -> str:
    """``docs/configuration.md`` with the current table."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    block = f"{START}\n{settings_table()}\n{END}"
    pattern = re.escape(START) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda match: block, text, flags=re.DOTALL)


def main() -> int:
    """Write the pages, or check them."""
    wanted = {
        ROOT / "docs" / "cli.md": command_page(),
        ROOT / "docs" / "configuration.md": configuration_page(),
    }
    stale = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run make docs\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
