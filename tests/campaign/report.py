"""What a campaign has found, as lines and as the table of ``docs/reliability.md``."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

from .frame import Record


def summary(record: Record, seconds: float) -> str:
    """One line about all trials of the seed."""
    rows = record.done.values()
    failed = sum(1 for row in rows if row["fault"])
    return (
        f"{len(rows)} trials, {sum(row['kills'] for row in rows)} kills, "
        f"{sum(row['count'] for row in rows)} faults and inputs, {failed} failed; "
        f"seed {record.seed}, {seconds:.0f} s now"
    )


def markdown(path: Path) -> str:
    """The results of a file, by command or kind of fault."""
    newest: dict[tuple[int, str], dict[str, Any]] = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        newest[row["seed"], row["trial"]] = row
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in newest.values():
        groups[row["trial"].partition("/")[0]].append(row)
    lines = [
        "| trials | kills | faults and inputs | failed | seeds | minutes |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for name in sorted(groups):
        rows = groups[name]
        seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
        lines.append(
            f"| {name} | {sum(row['kills'] for row in rows):,} | "
            f"{sum(row['count'] for row in rows):,} | {sum(bool(row['fault']) for row in rows)} | "
            f"{seeds} | {sum(row['seconds'] for row in rows) / 60:.1f} |"
        )
    every = list(newest.values())
    lines.append(
        f"| **all** | **{sum(row['kills'] for row in every):,}** | "
        f"**{sum(row['count'] for row in every):,}** | "
        f"**{sum(bool(row['fault']) for row in every)}** | | "
        f"**{sum(row['seconds'] for row in every) / 60:.0f}** |"
    )
    return "\n".join(lines) + "\n"
