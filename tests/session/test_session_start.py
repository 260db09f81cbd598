"""What a session imports before its first prompt."""

from __future__ import annotations

import subprocess
import sys


def test_the_first_prompt_waits_for_no_heavy_import() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'numpy', 'matplotlib'}"
    code = f"import sys, creativewritinggpt.session.terminal; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
