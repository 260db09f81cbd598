"""Counters, gauges and histograms in Prometheus' text format, without texts, keys or paths."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histograms' buckets, in seconds."""

COUNTERS = {
    "requests_total": "Requests answered, by HTTP status.",
    "rejected_total": "Requests refused, by reason.",
    "cancelled_total": "Generations that were cancelled, by who did it.",
    "prompt_tokens_total": "Prompt tokens of the generations begun.",
    "generation_tokens_total": "Tokens written.",
    "request_success_total": "Generations that ended, by finish reason.",
    "tokens_after_cancel_total": "Tokens written after their request was cancelled.",
    "steps_total": "Decoding steps.",
    "rows_total": "Rows of all decoding steps; by steps_total: the mean batch size.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "From the request to its first token.",
    "inter_token_latency_seconds": "Between two tokens of a generation.",
    "e2e_request_latency_seconds": "From the request to its end.",
    "request_queue_time_seconds": "From the request to the reading of its prompt.",
}
_GAUGES = {
    "num_requests_running": "Generations in the batch.",
    "num_requests_waiting": "Generations that wait for their turn.",
}


class Metrics:
    """What a server has done; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[str, float]] = {name: {} for name in COUNTERS}
        self._histograms: dict[str, list[float]] = {
            name: [0.0] * (len(BUCKETS) + 2) for name in HISTOGRAMS
        }
        self.gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1, label: str = "") -> None:
        """Add to a counter; ``label`` is its one label as ``name="value"``."""
        with self._lock:
            values = self._counters[name]
            values[label] = values.get(label, 0) + amount

    def observe(self, name: str, seconds: float) -> None:
        """Add an observation to a histogram."""
        with self._lock:
            values = self._histograms[name]
            for place, bound in enumerate(BUCKETS):
                values[place] += seconds <= bound
            values[-2] += 1
            values[-1] += seconds

    def value(self, name: str, label: str = "") -> float:
        """The value of a counter."""
        with self._lock:
            return self._counters[name].get(label, 0)

    def total(self, name: str) -> float:
        """The sum of a counter over its labels."""
        with self._lock:
            return sum(self._counters[name].values())

    def snapshot(self) -> dict[str, Any]:
        """All values, ready for JSON."""
        with self._lock:
            counters = {name: dict(values) for name, values in self._counters.items()}
            histograms = {
                name: {"count": values[-2], "sum": values[-1]}
                for name, values in self._histograms.items()
            }
        return {**counters, **histograms, **{name: get() for name, get in self.gauges.items()}}

    def text(self) -> str:
        """All values in Prometheus' text format."""
        lines = []
        with self._lock:
            for name, values in self._counters.items():
                lines += _head(name, COUNTERS[name], "counter")
                lines += [_line(name, label, value) for label, value in (values or {"": 0}).items()]
            for name, buckets in self._histograms.items():
                lines += _head(name, HISTOGRAMS[name], "histogram")
                for bound, value in zip(BUCKETS, buckets, strict=False):
                    lines.append(_line(f"{name}_bucket", f'le="{bound:g}"', value))
                lines.append(_line(f"{name}_bucket", 'le="+Inf"', buckets[-2]))
                lines.append(_line(f"{name}_count", "", buckets[-2]))
                lines.append(_line(f"{name}_sum", "", buckets[-1]))
        for name, get in self.gauges.items():
            lines += [*_head(name, _GAUGES[name], "gauge"), _line(name, "", get())]
        return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP cwgpt_{name} {text}", f"# TYPE cwgpt_{name} {kind}"]


def _line(name: str, label: str, value: float) -> str:
    return f"cwgpt_{name}{{{label}}} {value:.10g}" if label else f"cwgpt_{name} {value:.10g}"
