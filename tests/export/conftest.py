"""Tiny models saved once for all tests of the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_models import save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: Any, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """Folders of tiny models by name (see ``export_models``), made when asked for."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("export-models")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = save(root, name, tiny_tokenizer)
        return made[name]

    return get
