"""How threads wait while a model is trained: told before torch is imported, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from creativewritinggpt import wait_without_spinning


@pytest.mark.parametrize(
    ("given", "busy", "expected"),
    [
        ({}, 2.0, {"GOMP_SPINCOUNT": "0"}),
        ({}, 0.2, {}),
        ({"GOMP_SPINCOUNT": "500"}, 2.0, {"GOMP_SPINCOUNT": "500"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 2.0, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_sleep_where_a_core_is_busy_and_nothing_was_set(
    given: dict[str, str], busy: float, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy / 8 * 100)
    wait_without_spinning()
    assert environment == expected


def test_training_sets_it_before_torch_is_imported() -> None:
    # The first import of torch, whoever asks for it, says what is set by then.
    script = """
import os, sys
import psutil
from creativewritinggpt.cli.main import main

psutil.cpu_percent = lambda interval: 100.0

class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Finder())
main(["train", "missing.txt"])
"""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60,
        env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == "0", done.stderr
