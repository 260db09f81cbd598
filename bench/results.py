"""Rows for ``docs/results.md`` from evaluations, so that no figure is typed by hand.

    python bench/results.py outputs/evaluation.json … >> docs/results.md

For each file its main table, forgetting and tests as in ``evaluation.md``, under the command, the
version and the machine that made it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from creativewritinggpt.evaluation.tables import (
    caption,
    choice_table,
    forgetting_table,
    loss_table,
    markdown_table,
)
from creativewritinggpt.files import read_json


def section(evaluation: dict[str, Any]) -> str:
    """One evaluation as Markdown."""
    made = evaluation["made_by"]
    machine = made["hardware"]
    lines = [
        f"`{shlex.join(made['command'])}`", "",
        f"{made['created'][:10]}, version {made['versions']['creativewritinggpt']}, "
        f"{evaluation['precision']} on {machine['threads']} threads of {machine['processor']}.", "",
    ]  # fmt: skip
    tables = (("", loss_table(evaluation)), ("Forgetting", forgetting_table(evaluation)),
              ("Tests", choice_table(evaluation)))  # fmt: skip
    for title, table in tables:
        if table[1]:
            lines += [*markdown_table(*table), "", caption(title, evaluation), ""]
    return "\n".join(lines)


def main() -> None:
    """Print a section for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="evaluation.json")
    for file in parser.parse_args().files:
        sys.stdout.write(section(read_json(file)) + "\n")


if __name__ == "__main__":
    main()
