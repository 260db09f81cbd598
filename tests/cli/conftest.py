"""The command in this process: in one of its own, importing torch takes longest."""

import io
import subprocess
import sys

import pytest

from creativewritinggpt.cli.main import main


@pytest.fixture
def cwgpt(capsys, monkeypatch):
    """``cwgpt(words…, stdin="")``: exit code, stdout and stderr of a command."""

    def call(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        monkeypatch.setattr("sys.argv", ["cwgpt", *map(str, words)])
        capsys.readouterr()
        code = main(sys.argv[1:])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return call
