"""The loss of a large vocabulary: ours against torch's, forward and backward, on this machine.

    python bench/head.py [--quick] [--json] [--positions 2048]

The head is frozen, as it is while an adapter is trained: what is wanted is the sum of the negative
log-probabilities and its gradient with respect to the hidden states, in fp32.

    ours           ``training.loss.chunked_cross_entropy``
    logits         all logits at once, then ``torch.nn.functional.cross_entropy``
    torch          ``torch.nn.functional.linear_cross_entropy`` as it comes
    torch-chunked  the same in chunks (``LinearCrossEntropyOptions()``), where this torch has it

`seconds` is the fastest of the repeats, `growth_bytes` how much the process's peak memory grew over
that with all inputs there, `times_ours` the seconds against ours; `loss_difference` and
`gradient_difference` are relative to ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import in_own_process, machine, show, timed

SHAPES = {"gpt2-124m": (768, 50_257), "starter": (576, 49_152)}
CONTENDERS = ("ours", "logits", "torch", "torch-chunked")
METRICS = ("seconds", "times_ours", "growth_bytes", "loss_difference", "gradient_difference")


def loss_of(contender: str, hidden: Any, weight: Any, targets: Any) -> Any:
    """The sum of the negative log-probabilities."""
    import torch
    from torch.nn import functional as F

    from creativewritinggpt.models.scoring import Head
    from creativewritinggpt.training.loss import chunked_cross_entropy

    if contender == "ours":
        return chunked_cross_entropy(hidden, Head(weight), targets)
    if contender == "logits":
        return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")
    options: Any = {}
    if contender == "torch-chunked":
        options = {"options": torch.nn.LinearCrossEntropyOptions()}
    return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", **options)


def work(contender: str, model: str, positions: int, repeats: int, folder: str) -> dict[str, Any]:
    """Measure one contender in this process; its gradient is left in a file."""
    import torch

    from creativewritinggpt.devices import peak_memory_bytes

    width, vocabulary = SHAPES[model]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    loss = torch.zeros(())

    def step() -> None:
        nonlocal loss
        hidden.grad = None
        loss = loss_of(contender, hidden, weight, targets)
        loss.backward()

    before = peak_memory_bytes()
    seconds = min(timed(step) for _ in range(repeats + 1))
    assert hidden.grad is not None
    torch.save(hidden.grad, Path(folder) / contender)
    gradient = torch.load(Path(folder) / CONTENDERS[0], weights_only=True)
    difference = float((hidden.grad - gradient).norm() / gradient.norm())
    return {
        "seconds": seconds,
        "growth_bytes": peak_memory_bytes() - before,
        "loss": float(loss),
        "gradient_difference": difference,
    }


def main() -> None:
    """Run every contender in its own process and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="512 positions, once")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--models", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        contender, model, positions, repeats, folder = arguments.worker
        result = work(contender, model, int(positions), int(repeats), folder)
        sys.stdout.write("\n" + json.dumps(result) + "\n")
        return
    positions, repeats = (512, 1) if arguments.quick else (arguments.positions, 4)
    described, rows = machine(), []
    with tempfile.TemporaryDirectory(prefix="bench-head-") as folder:
        for model in arguments.models:
            ours: dict[str, Any] = {}
            for name in CONTENDERS:
                given = [name, model, str(positions), str(repeats), folder]
                found = in_own_process(__file__, given, seconds=300)
                ours = ours or found
                case = f"{positions} positions"
                row: dict[str, Any] = {"contender": name, "model": model, "case": case, **found}
                if "skipped" not in found and "skipped" not in ours:
                    row["times_ours"] = found["seconds"] / ours["seconds"]
                    row["loss_difference"] = abs(found["loss"] - ours["loss"]) / ours["loss"]
                rows.append(row)
    show("the head and its loss, forward and backward", rows, METRICS)
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": described, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
