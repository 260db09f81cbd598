"""Tasks of lm-evaluation-harness on a loaded model, where the harness is installed.

The harness is heavy and fetches its tasks' data from the hub, so it is an optional dependency; a
task can also be a YAML file that names local data.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, RunError
from ..models.checks import first_line, quiet
from ..models.loaded_model import LoadedModel


def require_lm_eval() -> None:
    """Refuse tasks where lm-evaluation-harness is not installed.

    Raises:
        InputError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(
            "--tasks needs lm-evaluation-harness, which is not installed", "pip install lm-eval"
        )


def run_tasks(
    model: LoadedModel, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 8
) -> dict[str, dict[str, Any]]:
    """Run tasks on a model as it is.

    Args:
        model: The model; its adapter is active unless called within ``model.base()``.
        tasks: Names of tasks, or YAML files that define one.
        limit: Maximum items per task.
        batch_size: Items per batch.

    Returns:
        The metrics of each task under the harness's names.

    Raises:
        InputError: The harness is not installed, or there is no such task.
        RunError: A task's data can't be had.
    """
    require_lm_eval()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with quiet():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        known = set(manager.all_tasks)
        chosen = [_task(task, known) for task in tasks]
        harness_model = HFLM(
            pretrained=model.model,
            tokenizer=model.tokenizer,
            backend="causal",
            max_length=model.window,
            batch_size=batch_size,
        )
        try:
            found = simple_evaluate(
                model=harness_model,
                tasks=chosen,
                limit=limit,
                task_manager=manager,
                bootstrap_iters=1000,
            )
        except (OSError, ConnectionError, ValueError) as error:
            raise RunError(
                f"the tasks could not be run: {first_line(error)}",
                "their data comes from the hub; a YAML file can name local data",
            ) from error
    return {
        task: {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
        for task, metrics in found["results"].items()
    }


def _task(name: str, known: set[str]) -> str | dict[str, Any]:
    """A task's name, or its definition where a file is named."""
    if name.endswith((".yaml", ".yml")):
        import yaml

        if not Path(name).is_file():
            raise InputError(f"there is no task file {name}")
        try:
            read = yaml.safe_load(Path(name).read_text("utf-8"))
        except yaml.YAMLError as error:
            raise InputError(f"{name} is not valid YAML") from error
        if not isinstance(read, dict) or "task" not in read:
            raise InputError(f"{name} defines no task", "it needs a line `task: NAME`")
        return read
    if name not in known:
        raise InputError(
            f"lm-evaluation-harness has no task '{name}'", "lm_eval --tasks list shows what it has"
        )
    return name
