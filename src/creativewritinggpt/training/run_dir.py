"""The folder a run writes into: claimed by one run at a time, never overwritten unasked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import clean_up, disk_errors

BEST, FINAL, CHECKPOINTS = "best_model", "final_model", "checkpoints"
METRICS, CURVES = "metrics.json", "training_curves.png"
JOURNAL, TRACKING = "metrics.jsonl", "tracking"
VALIDATION, MANIFEST = "validation.jsonl", "manifest.json"
EVALUATION = (
    "evaluation.json", "evaluation.md", "evaluation.html", "evaluation.jsonl",
    "evaluation_texts.jsonl",
)  # fmt: skip

_OF_A_RUN = (BEST, FINAL, CHECKPOINTS, METRICS, CURVES, JOURNAL, TRACKING, VALIDATION, MANIFEST,
              *EVALUATION)  # fmt: skip


def holds_run(folder: Path) -> bool:
    """Whether a run has written into the folder."""
    return any((folder / name).exists() for name in (BEST, FINAL, CHECKPOINTS, METRICS))


@contextlib.contextmanager
def claimed(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the folder for one run.

    The lock belongs to the process: one that is killed leaves none behind.

    Raises:
        InputError: The folder holds a run and neither ``resume`` nor ``overwrite`` is given,
            another run is writing into it, or it can't be made.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder", "choose another --output-dir")
    if holds_run(folder) and not (resume or overwrite):
        raise InputError(
            f"{folder} already holds a run",
            "--resume goes on with it, --overwrite replaces it, --output-dir names another folder",
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"another run is writing into {folder}",
                "wait for it, or choose another --output-dir",
            ) from error
    try:
        for place in (folder, folder / CHECKPOINTS):
            clean_up(place)
        yield
    finally:
        lock.release()


def check_spared(folder: Path) -> None:
    """Refuse to start over, for want of a checkpoint, where that would cost a model.

    A run that was killed before its first checkpoint may start over. One that has ended, or whose
    checkpoints are all damaged, leaves a model that took its time.

    Raises:
        InputError: There is such a model.
    """
    models = [name for name in (FINAL, BEST) if (folder / name).exists()]
    checkpoints = folder / CHECKPOINTS
    if models and (FINAL in models or (checkpoints.is_dir() and any(checkpoints.iterdir()))):
        raise InputError(
            f"{folder} holds no checkpoint to go on from, but a model: starting over would cost it",
            f"--init-adapter {folder / models[-1]} with another --output-dir goes on from it, "
            "--overwrite starts over",
        )


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote; other files in the folder stay."""
    for name in _OF_A_RUN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
