"""Warnings of libraries don't reach the terminal, whatever way they take, except with --debug."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from creativewritinggpt.console import quiet_libraries

# The command, with libraries that warn at their import, in use and at the end.
NOISE = """
import builtins, importlib.abc, logging, sys, warnings

NOISY = {"numpy", "rich", "tokenizers", "torch"}
own = logging.getLogger("noisy.own")
own.addHandler(logging.StreamHandler(sys.stderr))


def make_noise(when):
    warnings.simplefilter("always")
    warnings.warn(f"NOISE by warning {when}", UserWarning)
    warnings.warn(f"NOISE by deprecation {when}", DeprecationWarning)
    logging.getLogger("noisy").warning("NOISE by logger %s", when)
    own.warning("NOISE by a handler of its own %s", when)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in NOISY:
            NOISY.discard(name)
            make_noise(f"at the import of {name}")
        return None


open_file = builtins.open


def noisy_open(*arguments, **options):
    if str(arguments[0]).endswith((".txt", ".json")):
        make_noise("in use")
    return open_file(*arguments, **options)


builtins.open = noisy_open
sys.meta_path.insert(0, Finder())
import atexit
atexit.register(make_noise, "at the end")
from creativewritinggpt.cli.main import main
raise SystemExit(main())
"""
TEXT = "The lamp went out, and the captain laughed. Nobody answered; the sea turned over.\n\n"


def _noisy(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NOISE, *map(str, words)],
        cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["data", "doctor", "generate"])
def test_what_a_library_warns_of_is_not_shown(verb: str, tmp_path: Path, tiny_folder: Any) -> None:
    model = tiny_folder()
    (tmp_path / "novel.txt").write_text(TEXT * 20, "utf-8")
    words = {
        "data": ["data", "inspect", "novel.txt", "--model-name", model],
        "doctor": ["doctor"],
        "generate": ["generate", "The lamp", "--model", model, "--max-new-tokens", "3"],
    }[verb]
    quiet = _noisy(tmp_path, *words)
    assert quiet.returncode == 0, quiet.stderr
    assert "NOISE" not in quiet.stderr + quiet.stdout
    if verb == "doctor":
        loud = _noisy(tmp_path, *words, "--debug")
        for way in ("by warning", "by logger", "by a handler of its own"):
            assert f"NOISE {way}" in loud.stderr


def test_a_command_in_a_running_process_leaves_its_warnings_as_they_were(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging
    import warnings

    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    shown = warnings.showwarning
    restore = quiet_libraries()
    logging.getLogger("a library").warning("of the block")
    assert os.environ["PYTHONWARNINGS"] == "ignore"
    restore()
    assert warnings.showwarning is shown and "PYTHONWARNINGS" not in os.environ
    assert not logging.root.manager.disable
    assert "of the block" not in capsys.readouterr().err
