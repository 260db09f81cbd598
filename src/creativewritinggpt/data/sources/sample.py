"""The corpus that comes with the package: original pieces in the forms of four named sources."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from . import NamedSource


def sample_files() -> list[str]:
    """FILE arguments, one for each domain of the sample."""
    folder = Path(str(resources.files("creativewritinggpt.data") / "sample"))
    return [f"{file.stem}={file}" for file in sorted(folder.glob("*.jsonl"))]


SOURCE = NamedSource(name="sample", files=sample_files)
