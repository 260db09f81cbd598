"""CreativeWritingGPT: fine-tune a small language model on fiction, write with it, judge it.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import evaluate, generate, load, train
    from .config import Config

__all__ = ["Config", "evaluate", "generate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from .config import Config

        return Config
    if name in __all__:
        import os

        # torch reads it when it is first imported: operators that a Mac's GPU lacks run on its CPU.
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
