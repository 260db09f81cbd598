"""What a person sees of a running training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from .. import console


class Display:
    """Progress of the optimizer steps with loss, speed and time left.

    Args:
        total: Optimizer steps of the run.
        start: Steps already taken by an earlier part of the run.
        every: Seconds between two lines where there is no terminal.
    """

    def __init__(self, total: int, start: int = 0, every: float = 20.0) -> None:
        self.total, self.start, self.every = total, start, every
        self.loss: float | None = None
        self.validation: float | None = None
        self._began = self._said = time.monotonic()
        self._tokens = 0
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Display:
        if self._live:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                console=console.stderr(),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                "", total=self.total, completed=self.start, status=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._progress.stop()

    def step(self, step: int, loss: float, tokens: int) -> None:
        """Show a step that was taken.

        Args:
            step: Steps taken so far.
            loss: Its loss, in nats a token.
            tokens: Target tokens it was computed over.
        """
        # A running mean: a single step of a few thousand tokens is too noisy to read.
        self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        self._tokens += tokens
        now = time.monotonic()
        elapsed = max(now - self._began, 1e-9)
        left = elapsed / max(1, step - self.start) * (self.total - step)
        status = f"loss {self.loss:.3f}"
        if self.validation is not None:
            status += f", validation {self.validation:.3f}"
        status += f", {self._tokens / elapsed:,.0f} tokens/s, {console.duration(left)} left"
        if self._live:
            self._progress.update(self._task, completed=step, status=status)
        elif now - self._said >= self.every or step == self.total:
            self._said = now
            console.note(f"step {step}/{self.total}: {status}")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._live:
            self._progress.console.print(console.printable(text), markup=False)
        else:
            console.note(text)
