"""Messages of a training run: the summary before it, and its progress.

Progress is a live panel on a terminal and a line now and then elsewhere:

training ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 24/60  1 min 20 s left
loss 3.412   validation 3.501   best 3.498 at step 20   1,240 tokens/s   2.1 GB
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from .. import console, devices
from .metrics import Validation
from .setup import TrainingSetup

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_SMOOTH = 0.9
"""Decay of the running means of loss and speed per step."""


class Display:
    """Progress of a run: losses, speed, memory and time left.

    Args:
        total: Optimizer steps of the run.
        start: Steps taken before a resumption.
        device: Device whose memory is shown.
        every: Seconds between two lines without a terminal.
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
        """Show an optimizer step.

        Args:
            step: Steps taken so far.
            loss: Loss of the step in nats per token.
            tokens: Target tokens of the step.
            seconds: Duration of the step.
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


def announce(
    setup: TrainingSetup,
    base: Validation,
    sizes: tuple[int, int],
    micro_batch: int,
    seconds: tuple[float, float],
) -> None:
    """Summarise data and plan of a run before its first step.

    Args:
        setup: The run.
        base: Validation of the base model.
        sizes: Trained and total parameters.
        micro_batch: Rows per micro-batch.
        seconds: Durations of a validation and of an optimizer step.
    """
    config, plan, rows, say = setup.config, setup.plan, setup.rows, console.note
    _show_data(setup, base)
    evaluations = sum(plan.evaluates_after(step) for step in range(1, plan.total_steps + 1))
    expected = plan.total_steps * seconds[1] + evaluations * (seconds[0] + 1.0)
    trained, total = sizes
    what = "all weights" if config.method == "full" else f"a LoRA adapter of rank {config.lora_r}"
    say(
        f"Training {what} of {setup.model.name}: {trained:,} of {total:,} parameters "
        f"({100 * trained / total:.2f} %)."
    )
    steps = f"{plan.total_steps:,} steps of up to {plan.rows_per_step} rows"
    if rows is None:
        say(f"The texts are read meanwhile: {steps}; validation every {plan.eval_steps} steps.")
    else:
        say(
            f"{int(rows.target_counts().sum()):,} tokens in {len(rows):,} rows of "
            f"{rows.max_length}; {steps}, {plan.epochs:.2g} epochs; validation every "
            f"{plan.eval_steps} steps."
        )
    held_out = setup.held_out
    if held_out.scored < held_out.tokens:
        say(
            f"Each validation scores the same {held_out.scored:,} of {held_out.tokens:,} held-out "
            "tokens (--val-tokens); cwgpt evaluate scores all."
        )
    device = setup.model.device
    reasons = device.reasons
    compiled = ", compiled" if config.compile else ""
    say(
        f"Device {device.device} ({reasons['device']}), {device.precision} "
        f"({reasons['precision']}), threads: {device.threads} ({reasons['threads']}), "
        f"micro-batches of {console.counted(micro_batch, 'row')}{compiled}."
    )
    say(
        f"Before training: validation loss {base.loss:.4f}, perplexity {base.perplexity:.2f}. "
        f"This will take about {console.duration(expected)} and "
        f"{console.size(devices.peak_memory_bytes(device.device))} of memory."
    )


def _show_data(setup: TrainingSetup, base: Validation) -> None:
    """Show what was read from each source and its share in the training tokens."""
    for name, reason in setup.corpus.missing.items():
        console.warn(f"going on without {name}: {reason}")
    reports = setup.corpus.reports
    for report in reports.values():
        for said in report.summary():
            console.note(said)
    if setup.mixture is None:
        held_out = console.counted(len(setup.corpus.validation), "document")
        console.note(f"  {held_out} to validate on")
        return
    shares = {share.name: share for share in setup.mixture.shares}
    rows = []
    for name, report in reports.items():
        share = shares.get(name)
        rows.append(
            (
                name,
                f"{report.train:,}",
                f"{report.validation:,}",
                f"{share.tokens:,}" if share else "0",
                f"{share.share:.1%}" if share else "",
                f"{share.epochs:.2f}" if share else "",
                f"{share.cut:,}" if share else "",
                f"{base.domains[name]:.3f}" if name in base.domains else "",
            )
        )
    # Headings are broken by hand, so that the table fits into 80 columns.
    heads = ["source", "train", "held\nout", "tokens", "share", "passes", "over\na row"]
    console.table("", [*heads, "base\nloss"], rows)
