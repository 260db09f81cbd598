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
