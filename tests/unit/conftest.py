"""Fixtures of the unit tests: tiny models as whole writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from writers import make_writer


@pytest.fixture
def tiny_writer(tiny_model: Any, tiny_tokenizer: Any) -> Callable[..., Any]:
    """A factory of new writers: ``tiny_writer("gpt2" | "llama" | "qwen", seed=0)``."""

    def make(family: str = "gpt2", **changes: Any) -> Any:
        return make_writer(tiny_model(family, **changes), tiny_tokenizer)

    return make
