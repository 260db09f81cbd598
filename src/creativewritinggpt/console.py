"""Output for users: notes, warnings, tables and progress on stderr, JSON on stdout.

Colour follows the terminal and ``NO_COLOR``. Where stderr is not a terminal, progress is a line
every 20 seconds instead of a bar.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 control characters except tab and newline: they could move the cursor, set the title
# or write to the clipboard of the terminal that shows them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# What child processes and code that is no Python reads.
_QUIET = {
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

PHASE = " …"
"""What ends a line of :func:`phase`."""

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is (or None)."""

CountCallback = Callable[[int, int], None]
"""Called with how much of one piece of work is done, and how much there is."""


def printable(text: str) -> str:
    """``text`` without control characters that change a terminal's state."""
    return _CONTROL.sub("", text)


def other_process() -> str:
    """``process 1 of 8`` by the launcher's ``RANK`` and ``WORLD_SIZE``; empty for the main process.

    Only the main process writes to the terminal.
    """
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not (rank.isdigit() and size.isdigit()) or int(rank) == 0 or int(size) < 2:
        return ""
    return f"process {rank} of {size}"


@functools.cache
def stderr() -> Console:
    """The rich console on stderr."""
    from rich.console import Console

    # A log file has no width; tables need one that does not break their cells.
    width = None if sys.stderr.isatty() else 140
    return Console(stderr=True, highlight=False, width=width)


def note(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Write a warning to stderr."""
    note(f"warning: {text}")


def phase(what: str) -> None:
    """Say what begins now, where stderr is no terminal: a log is read by who waits for it."""
    if not sys.stderr.isatty():
        note(f"{what}{PHASE}")


def quiet_libraries() -> Callable[[], None]:
    """Keep warnings of libraries from the terminal, whatever way they take.

    Python's own warnings are dropped where they would be shown, so that filters which a library
    sets at its import change nothing. Log records up to warnings are dropped in every logger.
    Child processes, and what is no Python, read environment variables.

    Returns:
        A function that lets them through again.
    """
    import logging
    import warnings

    known = {name: os.environ.get(name) for name in _QUIET}
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    shown, level = warnings.showwarning, logging.root.manager.disable
    warnings.showwarning = lambda *_, **__: None
    logging.disable(max(level, logging.WARNING))

    def restore() -> None:
        warnings.showwarning = shown
        logging.disable(level)
        for name in _QUIET:
            if known[name] is None:
                os.environ.pop(name, None)

    return restore


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Show a table on stderr: first column left-aligned, the others (formatted numbers) right."""
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(str(cell)) for cell in row] for row in rows]
    shown = Table(
        title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False
    )
    for index, column in enumerate(columns):
        width = max((len(row[index]) for row in cells), default=0)
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        # Headings may break between words, numbers may not; a long name folds where it must.
        least = min(width, 40 if index else 16)
        shown.add_column(column, justify=justify, min_width=least, overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    stderr().print(shown)


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of name and text as lines of plain text, the texts aligned."""
    listed = [(printable(name), printable(text)) for name, text in rows]
    width = max((len(name) for name, _ in listed), default=0)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in listed)


def print_json(value: Any) -> None:
    """Write one JSON object to stdout, in ASCII where stdout is not UTF-8."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not utf8) + "\n")


def duration(seconds: float) -> str:
    """Seconds as text: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, thing: str) -> str:
    """A count with its noun: ``1 document``, ``1,250 documents``."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def size(count: float) -> str:
    """Bytes as text, in units of 1,000."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def counting(progress: ProgressCallback | None, what: str) -> CountCallback | None:
    """The callback of one piece of work, named ``what``, within ``progress``; None for None."""
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)


@contextlib.contextmanager
def progress(what: str) -> Iterator[ProgressCallback]:
    """Progress display: a bar on a terminal, elsewhere a line every 20 seconds.

    Args:
        what: Description shown until the first call of the callback.

    Yields:
        The callback.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        said = began = time.monotonic()
        doing = what

        def tell_line(name: str, done: int, total: int | None) -> None:
            nonlocal said, began, doing
            now = time.monotonic()
            if name != doing:  # the next piece has a pace of its own
                doing, began = name, now
            if now - said >= 20:
                said = now
                left = ""
                if total and done and now > began:
                    left = f", {duration((now - began) / done * (total - done))} left"
                note(f"{name}: {done:,}" + (f" of {total:,}" if total else "") + left)

        yield tell_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell_bar(name: str, done: int, total: int | None) -> None:
            if bar.tasks[0].description != printable(name):
                bar.reset(task)
            bar.update(task, description=printable(name), completed=done, total=total)

        yield tell_bar
