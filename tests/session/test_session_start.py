"""What a session imports before its first prompt."""

from __future__ import annotations

import subprocess
import sys


def _imported(*modules: str) -> set[str]:
    """The packages that a fresh process holds after importing modules of ours."""
    names = ", ".join(f"creativewritinggpt.{module}" for module in modules)
    code = f"import sys, {names}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_first_prompt_waits_for_no_heavy_import() -> None:
    heavy = {"torch", "transformers", "peft", "numpy", "matplotlib"}
    assert not heavy & _imported("session.repl", "session.commands")


def test_writing_imports_neither_transformers_nor_peft() -> None:
    writing = ("generation.engine", "generation.batch", "generation.style", "story.context")
    assert not {"transformers", "peft"} & _imported(*writing)
