"""Makers of valid files that other tests have."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[1] / room) for room in ("data", "story")]

documents: Any = importlib.import_module("test_documents")
programs: Any = importlib.import_module("test_story_programs")
