"""What was measured once is what is chosen ever after, on this machine."""

from __future__ import annotations

import time
from typing import Any

from creativewritinggpt import devices
from creativewritinggpt.devices import product_seconds


def test_an_answer_is_measured_once_and_remembered(monkeypatch: Any) -> None:
    calls: list[str] = []

    def takes(name: str, seconds: float) -> Any:
        def work() -> float:
            calls.append(name)
            return seconds

        return work

    first = devices.measured("which", {"a": takes("a", 2.0), "b": takes("b", 1.0)}, 2)
    assert first == {"a": 2.0, "b": 1.0} and calls
    calls.clear()
    again = devices.measured("which", {"a": takes("a", 0.1), "b": takes("b", 5.0)}, 2)
    assert again == first and not calls
    other = devices.measured("which", {"a": takes("a", 0.1), "b": takes("b", 5.0)}, 1)
    assert other == {"a": 0.1, "b": 5.0}, "another number of threads is another question"


def test_a_damaged_memory_is_measured_anew() -> None:
    devices.measured("which", {"a": lambda: 1.0}, 2)
    devices.cache_file().write_text("{broken")
    assert devices.measured("which", {"a": lambda: 3.0}, 2) == {"a": 3.0}


def test_no_place_to_remember_is_no_failure(monkeypatch: Any, tmp_path: Any) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CWGPT_CACHE", str(blocked))
    assert devices.measured("which", {"a": lambda: 3.0}, 2) == {"a": 3.0}


def test_products_are_measured_in_both_formats() -> None:
    found = product_seconds(1)
    assert set(found) == {"fp32", "bf16"} and all(seconds > 0 for seconds in found.values())


def test_what_takes_long_is_not_repeated() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(0.0)
        time.sleep(0.02)

    assert 0.02 <= devices.fastest(work, repeats=5, limit=0.01) < 1
    assert len(calls) == 1
    devices.fastest(work, repeats=2, limit=60)
    assert len(calls) == 4
