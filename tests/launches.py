"""Commands forked from a process that has imported everything: a start takes no time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).resolve().parent)


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def _fork_server() -> Any:
    """The process that has imported everything, and from which commands are forked."""
    from multiprocessing import forkserver

    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["preloaded"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HERE, before)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return server


class ForkedCommand:
    """A ``cwgpt`` command as a process of its own; the methods are those of ``subprocess.Popen``.

    Args:
        words: The words after ``cwgpt``.
        folder: Its working folder.
        log: File that its stderr is added to.
        prepare: Called first, in the process.

    Attributes:
        stdout: What it prints.
    """

    def __init__(
        self, words: Sequence[object], folder: Path, log: Path,
        prepare: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        server = _fork_server()
        reader, writer = server.Pipe(duplex=False)
        arguments = (
            dict(os.environ),
            list(map(str, words)),
            str(folder),
            str(log),
            writer,
            prepare,
        )
        self._process = server.Process(target=_command, args=arguments)
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return int(self._process.pid)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: It has not ended in that many seconds.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("cwgpt", timeout or 0)
        self.stdout.close()
        return code


def _command(
    environment: Mapping[str, str], words: list[str], folder: str, log: str, stdout: Any,
    prepare: Callable[[], None] | None,
) -> None:  # fmt: skip
    """The process of a forked command."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    with open(os.devnull) as nothing, open(log, "a") as stream:
        os.dup2(nothing.fileno(), 0)
        os.dup2(stream.fileno(), 2)
    # Streams know whether their file is a terminal or a pipe, so new files need new ones.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    if prepare is not None:
        prepare()
    from creativewritinggpt.cli.main import main

    sys.exit(main(words))


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
    server = _fork_server()
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
