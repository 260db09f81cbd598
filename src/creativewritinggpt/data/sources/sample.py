"""The corpus that comes with the package: original pieces in the four named sources' forms."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ...config.run import Config
from .base import Source
from .files import open_files


def open_sample(config: Config) -> list[Source]:
    """The sources of the sample corpus, one for each of its files."""
    folder = Path(str(resources.files("creativewritinggpt.data") / "sample"))
    files = sorted(folder.glob("*.jsonl"))
    return open_files([f"{file.stem}={file}" for file in files], config)
