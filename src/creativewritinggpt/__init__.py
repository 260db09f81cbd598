"""CreativeWritingGPT: fine-tune a small language model on fiction, write with it, judge it.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import analyze, evaluate, generate, load, train
    from .config.run import Config

__all__ = ["Config", "analyze", "evaluate", "generate", "load", "train"]


def prepare_environment() -> None:
    """Set what torch, transformers and the hub client read when they are first imported.

    Operators that a Mac's GPU lacks run on its processor, transformers keeps its advice to whoever
    calls it directly, and nothing is told to anybody. What the user has set stays.
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
