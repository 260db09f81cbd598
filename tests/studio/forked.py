"""Children of a studio that are forked from a process that has imported everything."""

import functools
import os

import psutil
from launches import ForkedCommand

from creativewritinggpt.studio.processes import LOG, OUTPUT, Identity, Processes


class ForkedProcesses(Processes):
    """Processes whose start takes no time."""

    def __init__(self):
        super().__init__()
        self.forked = []

    def start(self, words, folder, cwd, extra=None):
        if list(words[:2]) != ["-m", "creativewritinggpt"]:
            return super().start(words, folder, cwd, extra)
        folder.mkdir(parents=True, exist_ok=True)
        apart = functools.partial(_apart, str(folder / OUTPUT), dict(extra or {}))
        child = ForkedCommand(words[2:], cwd, folder / LOG, apart)
        self.forked.append(child)
        return Identity(child.pid, psutil.Process(child.pid).create_time())


def _apart(output, extra):
    """What a child of the studio has: a session of its own, its output in a file."""
    os.setsid()
    os.environ.update({"NO_COLOR": "1", **extra})
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
