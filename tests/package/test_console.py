"""What the terminal is told while it waits."""

from __future__ import annotations

import itertools
from typing import Any

from creativewritinggpt import console


def test_the_time_left_is_that_of_the_piece_at_hand(monkeypatch: Any, capsys: Any) -> None:
    """A slow first piece says nothing about how long the second takes."""
    clock = itertools.chain([0.0, 1.0, 1001.0, 1002.0, 1022.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("reading") as tell:
        tell("slow", 1, 100)
        tell("slow", 100, 100)
        tell("fast", 0, 40)
        tell("fast", 20, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["slow: 100 of 100, 0 s left", "fast: 20 of 40, 20 s left"]
