"""What a person sees of a running training: a live panel on a terminal, plain lines elsewhere.

training ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 24/60  1 min 20 s left
loss 3.412   validation 3.501   best 3.498 at step 20   1,240 tokens/s   2.1 GB
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from .. import console, devices

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_SMOOTH = 0.9
"""What a step leaves of the running means: a single one is too noisy to read."""


class Display:
    """Progress of the optimizer steps with losses, speed, memory and time left.

    Args:
        total: Optimizer steps of the run.
        start: Steps already taken by an earlier part of the run.
        device: The device whose memory is shown.
        every: Seconds between two lines where there is no terminal.
    """

    def __init__(
        self, total: int, start: int = 0, device: str = "cpu", every: float = 20.0
    ) -> None:
        self.total, self.start, self.every, self.device = total, start, every, device
        self.done = start
        self.loss: float | None = None
        self.validation: float | None = None
        self.best: tuple[float, int] | None = None
        self._rate: float | None = None
        self._began = self._said = time.monotonic()
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Display:
        if self._live:
            from rich.live import Live

            self._panel = Live(self, console=console.stderr(), transient=True, refresh_per_second=4)
            self._panel.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._panel.stop()

    def step(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """Show a step that was taken.

        Args:
            step: Steps taken so far.
            loss: Its loss, in nats a token.
            tokens: Target tokens it was computed over.
            seconds: How long it took.
        """
        self.done = step
        self.loss = _running(self.loss, loss)
        self._rate = _running(self._rate, tokens / max(seconds, 1e-9))
        now = time.monotonic()
        if not self._live and (now - self._said >= self.every or step == self.total):
            self._said = now
            parts = ", ".join([*self._figures(), self._left()])
            console.note(f"step {step}/{self.total}: {parts}")

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._live:
            self._panel.console.print(console.printable(text), markup=False)
        else:
            console.note(text)

    def _figures(self) -> list[str]:
        """What is known, each with its name."""
        figures = []
        if self.loss is not None:
            figures.append(f"loss {self.loss:.3f}")
        if self.validation is not None:
            figures.append(f"validation {self.validation:.3f}")
        if self.best is not None:
            figures.append(f"best {self.best[0]:.3f} at step {self.best[1]}")
        if self._rate is not None:
            figures.append(f"{self._rate:,.0f} tokens/s")
        return [*figures, console.size(devices.peak_memory_bytes(self.device))]

    def _left(self) -> str:
        """The time left, validations included, as far as steps taken tell."""
        if self.done == self.start:
            return "the first step takes longest"
        elapsed = time.monotonic() - self._began
        left = elapsed / (self.done - self.start) * (self.total - self.done)
        return f"{console.duration(left)} left"

    def __rich_console__(self, terminal: Console, options: ConsoleOptions) -> RenderResult:
        """The live panel."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        first = Table.grid(padding=(0, 1))
        first.add_row(
            Text("training"),
            ProgressBar(total=self.total, completed=self.done, width=min(30, options.max_width)),
            Text(f"{self.done}/{self.total}", style="bold"),
            Text(self._left(), style="dim"),
        )
        yield first
        line = Text()
        for number, figure in enumerate(self._figures()):
            line.append("  " if number else "")
            # The numbers stand out, their names do not.
            for place, word in enumerate(figure.split(" ")):
                digits = word.replace(",", "").replace(".", "").isdigit()
                line.append(" " if place else "")
                line.append(word, style="bold" if digits else "dim")
        yield line


def _running(mean: float | None, value: float) -> float:
    """A running mean with one more value in it."""
    return value if mean is None else _SMOOTH * mean + (1 - _SMOOTH) * value
