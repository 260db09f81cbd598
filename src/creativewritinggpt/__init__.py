"""CreativeWritingGPT: fine-tune a small language model on fiction, and generate, evaluate, explain.

The public names are imported on first use, so importing the package is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .api import analyze, evaluate, generate, load, train
    from .config.run import Config

__all__ = ["Config", "__version__", "analyze", "evaluate", "generate", "load", "train"]


def prepare_environment() -> None:
    """Environment variables of torch, transformers and the hub client, before their import.

    Operators that an Apple GPU lacks run on the CPU, transformers logs errors only, and the hub
    client sends no telemetry. Variables that the user has set are kept.
    """
    import os

    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def wait_without_spinning() -> None:
    """Let torch's threads give their cores away while they wait, if another program is busy now.

    Before torch is imported. By default threads that wait for each other spin for milliseconds,
    which takes that time from the thread that they wait for, where the cores have more to do
    (figures: docs/performance.md). Variables that the user has set are kept, and so are the
    numbers: neither the threads nor their shares of the work change.

    Trade-off: a thread that sleeps wakes up later, so that training alone is a seventh slower. What
    begins after the training is not noticed.
    """
    import os

    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    import psutil

    busy_cores = psutil.cpu_percent(interval=0.25) / 100 * (os.cpu_count() or 1)
    if busy_cores > 0.75:
        os.environ["GOMP_SPINCOUNT"] = "0"


def __getattr__(name: str) -> Any:
    if name == "Config":
        from .config.run import Config

        return Config
    if name in __all__:
        prepare_environment()
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
