"""Going on with a run: its own settings and choices, and a refusal of what has changed since.

What was found out when the run began (number format, threads, the rows of a micro-step) is in its
checkpoint and is used again: another choice would give other last digits. Whoever knows better says
``--force``: the change is then recorded with the run, and the losses of other data are not compared
with the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..config.run import Config
from ..distributed import ProcessGroup
from .checkpoint import State, changes, refuse
from .choice import Choice
from .setup import FREE_TO_CHANGE, SHOWN, Parts


def begun(manifest: Path, config: Config, group: ProcessGroup) -> State | None:
    """What a run without a checkpoint began with, as :func:`recorded` asks for it.

    Args:
        manifest: What was written before the first step, which the group's first reads.
        config: The settings that were given.
        group: The processes that train.
    """
    run = None
    if group.is_main:
        try:
            run = json.loads(manifest.read_text("utf-8"))["run"]
        except (OSError, ValueError, KeyError, TypeError):  # killed before, or of an older version
            run = None
    run = json.loads(group.broadcast_text(json.dumps(run)))
    if run is None:
        return None
    # Nothing is lost yet: another number format may be asked for, and threads are counted anew.
    precision = run["precision"] if config.precision == "auto" else config.precision
    return State(fingerprint={**run, "probed": {"precision": precision, "processes": 0}})


def recorded(
    state: State,
    config: Config,
    files: Sequence[str],
    *,
    said: Collection[str] | None,
    force: bool,
    processes: int,
) -> tuple[Config, Sequence[str]]:
    """Settings and files of the run that is resumed, with this machine's places.

    Args:
        state: The checkpoint's state.
        config: The settings that were given.
        files: The files that were given.
        said: Names of the settings that the user gave. Without it: all of them where any differs
            from its default, else none.
        force: Let what was given win over the record.
        processes: Processes that train now.

    Raises:
        InputError: What was given differs from the record.
    """
    then, given, default = state.fingerprint, config.to_dict(), Config().to_dict()
    values = {
        **given,
        **{name: then["shown"][name] for name in SHOWN if given[name] == default[name]},
    }
    if said is None:
        fixed = [name for name in given if name not in FREE_TO_CHANGE]
        said = fixed if any(given[name] != default[name] for name in fixed) else ()
    now = {name: given[name] for name in said if name not in FREE_TO_CHANGE}
    changed = changes(then["config"], now)
    if files:
        changed += changes({"files": then["files"]}, {"files": list(files)})
    probed = then["probed"]
    if config.precision != "auto":
        changed += changes(probed, {"precision": config.precision})
    if not force:
        refuse(changed)
    values |= {**then["config"], **now}
    if config.precision == "auto":
        values["precision"] = probed["precision"]
    # A launcher gives each of several processes its own part of the processor.
    if config.num_workers is None and processes == probed["processes"]:
        values["num_workers"] = probed["threads"]
    return Config(**values), list(files) or then["files"]


def take_up(state: State, parts: Parts, force: bool) -> bool:
    """Compare a checkpoint with what there is now, and count the continuation.

    Args:
        state: The checkpoint's state; changed.
        parts: What the run is made of now.
        force: Go on although something has changed.

    Returns:
        Whether the data or the base model are others, so that losses must be measured anew.

    Raises:
        InputError: Something has changed.
    """
    now = parts.fingerprint()
    changed = changes(state.fingerprint, now)
    if not force:
        refuse(changed)
    metrics = state.metrics
    metrics["resumed_from"].append(state.step)
    metrics["config"] = parts.config.to_dict()
    if changed:
        metrics["forced"].append({"step": state.step, "changes": changed})
        console.warn(f"going on although the run has changed: {'; '.join(changed)}")
    other = bool(changes(state.fingerprint, {key: now[key] for key in ("data", "base")}))
    state.fingerprint = {**state.fingerprint, **now, "shown": parts.shown()}
    if other:
        fresh = State()
        for name in ("best_loss", "best_step", "reference_loss", "evaluations_without_improvement"):
            setattr(state, name, getattr(fresh, name))
        metrics["best_step"] = None
    return other


def choices(parts: Parts, processes: int, micro_batch: int, chosen: Choice) -> dict[str, Any]:
    """What was found out when the run began, for its checkpoints.

    Args:
        parts: What the run is made of.
        processes: Processes that train.
        micro_batch: Rows that go through the model at once.
        chosen: What was tried, and why so many rows go through at once.
    """
    device, asked = parts.writer.device, parts.config.precision
    return {
        "precision": asked if asked == "int8" else device.precision,
        "compiled": chosen.compiled,
        "threads": device.threads,
        "processes": processes,
        "micro_batch": micro_batch,
        "reasons": {
            **device.reasons,
            "compiled": chosen.reason,
            "micro_batch": chosen.rows_reason,
        },
    }
