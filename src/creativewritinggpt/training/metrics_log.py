"""``metrics.jsonl``: a line for each step and each validation, written as it happens.

It is what to follow with ``tail -f`` and what is left when a machine goes down. A run that is
resumed first takes out the lines after its checkpoint: it will write them again. The same numbers
go to the trackers that ``--track`` names (TensorBoard and whatever else Accelerate knows); samples
and texts never do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..config.run import Config
from ..errors import InputError
from ..files import disk_errors, write_text
from .run_dir import JOURNAL, TRACKING

_NESTED = "domains"


class Journal:
    """The open journal of a run.

    Args:
        stream: ``metrics.jsonl``, open for appending; nothing is written without it.
        tracker: An ``Accelerator`` with trackers, or None.
    """

    def __init__(self, stream: TextIO | None = None, tracker: Any = None) -> None:
        self._stream, self._tracker = stream, tracker

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line.

        Args:
            entry: ``step`` and what is known at it; None is left out.

        Raises:
            RunError: The disk is full.
        """
        if self._stream is not None:
            known = {key: value for key, value in entry.items() if value is not None}
            with disk_errors(Path(self._stream.name)):
                self._stream.write(json.dumps(known, ensure_ascii=False) + "\n")
                self._stream.flush()
        if self._tracker is not None:
            numbers = {
                k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "step"
            }
            for name, value in (entry.get(_NESTED) or {}).items():
                numbers[f"val_loss/{name}"] = value
            self._tracker.log(numbers, step=entry["step"])


@contextlib.contextmanager
def journal(config: Config, step: int, device: str) -> Iterator[Journal]:
    """Open the journal of a run, and its trackers, for the block.

    Args:
        config: The settings; ``output_dir`` and ``track`` are used here.
        step: Steps taken so far; what the journal holds beyond them is taken out.
        device: The device that is trained on.

    Raises:
        InputError: A tracker that does not exist or is not installed.
    """
    folder = Path(config.output_dir)
    tracker = _trackers(config, folder, step, device) if config.track else None
    path = folder / JOURNAL
    _cut(path, step)
    try:
        with disk_errors(path), path.open("a", encoding="utf-8") as stream:
            yield Journal(stream, tracker)
    finally:
        if tracker is not None:
            for one in tracker.trackers:
                one.finish()


def _cut(path: Path, step: int) -> None:
    """Leave the lines up to a step; a last line that a killed process left half is no line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))


def check_trackers(names: list[str] | None) -> None:
    """Refuse trackers that Accelerate does not know or that are not installed.

    Raises:
        InputError: Naming the tracker.
    """
    if not names:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(kind.value) for kind in LoggerType if kind.value != "all"]
    installed = [str(kind.value) for kind in get_available_trackers()]
    for name in names:
        if name not in known:
            raise InputError(f"no tracker '{name}'", f"there are: {', '.join(known)}")
        if name not in installed or (
            name == "tensorboard" and importlib.util.find_spec("tensorboard") is None
        ):
            raise InputError(f"the tracker {name} is not installed", f"pip install {name}")


def _trackers(config: Config, folder: Path, step: int, device: str) -> Any:
    """Accelerate with its trackers started."""
    from accelerate import Accelerator

    names = config.track or []
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        log_with=names,
        project_dir=folder / TRACKING,
    )
    settings = {
        key: value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
        for key, value in config.to_dict().items()
        # Where the files lie is nobody else's business.
        if value is not None and not key.endswith(("_dir", "_file", "_prompts"))
    }
    # Steps that are taken again replace those of before.
    options = {"tensorboard": {"purge_step": step + 1}} if "tensorboard" in names else {}
    accelerator.init_trackers("creativewritinggpt", config=settings, init_kwargs=options)
    return accelerator
