"""Curves of a training run, followed in its ``metrics.jsonl`` by offset.

The log has a line per step and per validation. A resumed run takes lines away and goes on in a new
file, which is seen by its inode; then all is read anew. ``metrics.json`` and ``manifest.json`` have
what does not change from step to step: the base model's losses, the plan, and the samples.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.run_files import MANIFEST, METRICS, METRICS_LOG

_MOST_POINTS = 1500
"""Points of a curve that are sent; of more steps neighbours are averaged."""

_TREND = 2.0
"""Standard errors by which the mean loss must change to count as falling or rising."""


class Curves:
    """What the log of one run holds so far.

    Args:
        folder: Output folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.validations: list[dict[str, Any]] = []
        self._offset = 0
        self._inode: int | None = None
        self._lock = threading.Lock()
        self._extra: tuple[tuple[int, ...], dict[str, Any]] = ((), {})

    def follow(self) -> bool:
        """Read what is new; whether anything was."""
        with self._lock:
            return self._follow()

    def _follow(self) -> bool:
        try:
            with (self.folder / METRICS_LOG).open("rb") as stream:
                about = os.fstat(stream.fileno())
                if self._inode != about.st_ino or about.st_size < self._offset:
                    self._forget()
                    self._inode = about.st_ino
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            changed = bool(self.steps or self.validations)
            self._forget()
            return changed
        whole = data[: data.rfind(b"\n") + 1]  # a line that is still being written is left
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))
        return bool(whole)

    def _forget(self) -> None:
        self._offset, self._inode = 0, None
        for values in (self.steps, self.losses, self.rates, self.seconds, self.tokens):
            values.clear()
        self.validations.clear()

    def _take(self, entry: dict[str, Any]) -> None:
        step = int(entry["step"])
        if "loss" in entry:
            self.steps.append(step)
            self.losses.append(float(entry["loss"]))
            self.rates.append(float(entry["learning_rate"]))
            self.seconds.append(float(entry["step_seconds"]))
            self.tokens.append(int(entry["tokens"]))
        elif "val_loss" in entry:
            domains = {str(name): float(loss) for name, loss in entry.get("domains", {}).items()}
            self.validations.append(
                {"step": step, "loss": float(entry["val_loss"]), "domains": domains}
            )

    def plan(self) -> dict[str, Any]:
        """Total steps, base losses and samples, as far as the run has written them."""
        stamp = tuple(_stamp(self.folder / name) for name in (MANIFEST, METRICS))
        if stamp == self._extra[0]:
            return self._extra[1]
        manifest, metrics = _object(self.folder / MANIFEST), _object(self.folder / METRICS)
        plan = dict(manifest.get("plan") or {})
        plan["samples"] = list(metrics.get("samples") or [])
        plan["resumed_from"] = list(metrics.get("resumed_from") or [])
        plan["overfits_after"] = metrics.get("overfits_after")
        if metrics.get("base_val_loss") is not None:
            plan["base_val_loss"] = metrics["base_val_loss"]
            plan["base_domains"] = {
                name: one["base_val_loss"] for name, one in (metrics.get("domains") or {}).items()
            }
        self._extra = (stamp, plan)
        return plan

    def best(self) -> dict[str, Any] | None:
        """The validation with the lowest loss."""
        finite = [one for one in self.validations if math.isfinite(one["loss"])]
        return min(finite, key=lambda one: one["loss"]) if finite else None

    def seconds_left(self, evaluation_seconds: float = 0.0) -> float | None:
        """Estimated seconds until the last step, by the last 50 steps."""
        total = self.plan().get("total_steps")
        recent = self.seconds[-50:]
        if not total or not recent or not self.steps:
            return None
        left = max(0, int(total) - self.steps[-1])
        every = max(1, int(self.plan().get("eval_steps") or total))
        return left * sum(recent) / len(recent) + math.ceil(left / every) * evaluation_seconds

    def to_dict(self) -> dict[str, Any]:
        """The curves for the page: points, validations, samples and a sentence."""
        with self._lock:
            plan, best = self.plan(), self.best()
            names = list(plan.get("base_domains") or {})
            for one in self.validations:
                names += [name for name in one["domains"] if name not in names]
            return {
                "steps": _thinned(self.steps, whole=True),
                "loss": _thinned(self.losses),
                "learning_rate": _thinned(self.rates),
                "validations": list(self.validations),
                "domains": names,
                "base": plan.get("base_val_loss"),
                "base_domains": plan.get("base_domains") or {},
                "best": best,
                "total_steps": plan.get("total_steps"),
                "eval_steps": plan.get("eval_steps"),
                "resumed_from": plan["resumed_from"],
                "overfits_after": plan["overfits_after"],
                "samples": plan["samples"],
                "sentence": self.sentence(),
            }

    def sentence(self) -> str:
        """The curves in words: the last loss, the best validation, and the trend."""
        if not self.steps:
            return "No step has been taken yet."
        total = self.plan().get("total_steps")
        of = f" of {total:,}" if total else ""
        parts = [f"Step {self.steps[-1]:,}{of}: training loss {self.losses[-1]:.3f}"]
        if trend := _trend(self.losses):
            parts[0] += f", {trend}"
        if (best := self.best()) is not None:
            last, base = self.validations[-1], self.plan().get("base_val_loss")
            said = f"validation loss {last['loss']:.3f}"
            if best["step"] != last["step"]:
                said += f", best {best['loss']:.3f} at step {best['step']:,}"
            elif len(self.validations) > 1:
                said += ", the best so far"
            if base is not None:
                said += f"; the base model has {base:.3f}"
            parts.append(said)
        if after := self.plan().get("overfits_after"):
            parts.append(f"it begins to overfit after step {after:,}")
        return "; ".join(parts) + "."


def _trend(losses: Sequence[float]) -> str:
    """Whether the loss changed over the last two thirds by more than it varies; empty if few."""
    third = len(losses) // 3
    if third < 4:
        return ""
    before, now = losses[-2 * third : -third], losses[-third:]
    change = statistics.fmean(now) - statistics.fmean(before)
    noise = math.sqrt((statistics.variance(before) + statistics.variance(now)) / third)
    if not abs(change) > _TREND * noise:
        return "about level"
    return "falling" if change < 0 else "rising"


def _thinned(values: Sequence[Any], whole: bool = False) -> list[Any]:
    """Means of neighbours, so that there are at most as many as are drawn; of steps the last."""
    width = math.ceil(len(values) / _MOST_POINTS)
    if width <= 1:
        return list(values)
    parts = (values[at : at + width] for at in range(0, len(values), width))
    return [part[-1] if whole else sum(part) / len(part) for part in parts]


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _object(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
