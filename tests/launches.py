"""Processes of one launch, forked from one that has imported everything: a start takes no time."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def launch(folder: Path, *words_of_each: Sequence[object]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of processes that share a launch, each with words of its own.

    Args:
        folder: A new folder for what they say.
        words_of_each: The words after ``cwgpt`` of each process.
    """
    folder.mkdir()
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
        "WORLD_SIZE": str(len(words_of_each)), "LOCAL_WORLD_SIZE": str(len(words_of_each)),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    os.environ["PYTHONPATH"] = HERE
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["preloaded"])
    runs = []
    for rank, words in enumerate(words_of_each):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        runs.append(
            server.Process(
                target=_run, args=(environment, list(map(str, words)), str(folder / str(rank)))
            )
        )
        runs[-1].start()
    for run in runs:
        run.join(120)
        if run.is_alive():
            for other in runs:
                other.kill()
            raise AssertionError("a process hangs")
    return [
        (run.exitcode or 0, *((folder / f"{rank}.{name}").read_text() for name in ("out", "err")))
        for rank, run in enumerate(runs)
    ]


def _run(environment: Mapping[str, str], words: list[str], place: str) -> None:
    """One process's command."""
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        with open(f"{place}.{name}", "w") as stream:
            os.dup2(stream.fileno(), number)
    from creativewritinggpt.cli.main import main

    sys.exit(main(words))
