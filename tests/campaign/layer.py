"""A file layer: every call of this process that writes is counted, and one of them fails or dies.

What Python code calls is replaced: ``open`` (a raw file whose ``write`` and ``truncate`` are seen),
``os.open``, ``os.write``, ``os.replace``, ``os.rename``, ``os.fsync``, ``os.unlink``, ``os.mkdir``,
``os.rmdir``, ``os.chmod``, ``os.link``, ``os.symlink``, ``os.truncate``, and with them ``shutil``,
``pathlib`` and ``tempfile``; and the one writer of native code that the package uses for its own
files, ``serialize_file`` of safetensors. Only calls below the watched folders count.

The idea is that of SQLite's crash tests. It also notes what a power cut would find: a file that was
renamed into place before its content was flushed.
"""

from __future__ import annotations

import builtins
import dataclasses
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEEDS_SPACE = {"open", "write", "mkdir", "native", "link", "symlink", "truncate"}
"""Calls that fail on a full disk."""
NEEDS_LEAVE = {"open", "mkdir", "rmdir", "unlink", "replace", "link", "symlink", "chmod"}
"""Calls that fail in a folder that may not be written to."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What happens at which call.

    Attributes:
        watch: Folders and files whose calls count.
        at: Number of the call, from 1; 0 counts only.
        act: ``die`` (SIGKILL before the call), ``torn`` (SIGKILL when half of it is written),
            ``term`` (SIGTERM, then the call), ``full``, ``quota``, ``readonly`` (this call and all
            later ones that need it fail), ``io``, ``denied`` (this one fails), ``half`` (a full
            disk after half of what is written), ``gone`` (the first watched folder vanishes).
    """

    watch: tuple[Path, ...]
    at: int = 0
    act: str = "die"


class Layer:
    """The replaced calls of this process; there is one.

    Args:
        plan: What is to happen.
        log: File descriptor to which a line is written for each call.
    """

    def __init__(self, plan: Plan, log: int) -> None:
        self.plan, self.log = plan, log
        self.watch = tuple(os.path.realpath(path) for path in plan.watch)
        self.count = 0
        self.failing: set[str] = set()
        self.error = 0
        self.unflushed: set[str] = set()
        self.os_write = os.write

    def watched(self, path: str | None) -> bool:
        """Whether calls on this path count."""
        return path is not None and any(
            path == place or path.startswith(place + os.sep) for place in self.watch
        )

    def say(self, line: str) -> None:
        """Write a line to the log."""
        self.os_write(self.log, line.encode("utf-8", "surrogateescape") + b"\n")

    def call(self, kind: str, path: str, half: Callable[[], None] | None = None) -> None:
        """Count a call; fail or die where it is its turn.

        Args:
            kind: ``open``, ``write``, ``replace`` and so on.
            path: What it is about.
            half: Does a part of the call.
        """
        self.count += 1
        self.say(f"{self.count}\t{kind}\t{path}")
        if kind in self.failing:
            raise OSError(self.error, os.strerror(self.error), path)
        if self.count != self.plan.at:
            return
        act = self.plan.act
        if act in ("torn", "half") and half is not None:
            half()
        if act in ("die", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif act == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif act == "gone":
            real = {name: getattr(os, name) for name in _REPLACED}
            for name, function in _REPLACED.items():
                setattr(os, name, function)
            shutil.rmtree(self.watch[0], ignore_errors=True)
            for name, function in real.items():
                setattr(os, name, function)
        else:
            number, kinds = {
                "full": (errno.ENOSPC, NEEDS_SPACE),
                "half": (errno.ENOSPC, NEEDS_SPACE),
                "quota": (errno.EDQUOT, NEEDS_SPACE),
                "readonly": (errno.EROFS, NEEDS_SPACE | NEEDS_LEAVE),
                "denied": (errno.EACCES, NEEDS_LEAVE),
                "io": (errno.EIO, NEEDS_SPACE | {"fsync"}),
            }[act]
            self.error = number
            if act in ("full", "half", "quota", "readonly"):
                self.failing = kinds
            if kind in kinds:
                raise OSError(number, os.strerror(number), path)

    def moved(self, source: str, target: str) -> None:
        """Note a rename of what is not flushed."""
        loose = {path for path in self.unflushed if (path + os.sep).startswith(source + os.sep)}
        if loose and not os.path.basename(target).startswith("."):
            self.say(f"unflushed\t{min(loose)}\t{target}")
        self.unflushed -= loose

    def remove(self, path: str) -> None:
        """Forget a file that is gone."""
        self.unflushed.discard(path)


def _place(path: Any, dir_fd: int | None = None) -> str | None:
    """The absolute path of what a call was given; None for what is no path of a file."""
    try:
        if isinstance(path, int):
            found = os.readlink(f"/proc/self/fd/{path}")
            return found if found.startswith("/") else None
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
    except (OSError, TypeError, ValueError):
        return None
    head, tail = os.path.split(os.path.abspath(text))
    return os.path.join(os.path.realpath(head), tail)


_NAMES = ("open", "write", "replace", "rename", "fsync", "unlink", "remove", "mkdir", "rmdir",
          "chmod", "link", "symlink", "truncate", "ftruncate")  # fmt: skip
_REPLACED: dict[str, Any] = {name: getattr(os, name) for name in _NAMES}


def install(plan: Plan, log: int) -> Layer:
    """Replace the calls of this process, for good."""
    layer = Layer(plan, log)
    _replace_open(layer)
    _replace_os(layer)
    _replace_safetensors(layer)
    return layer


def _replace_open(layer: Layer) -> None:
    real = io.open

    class Raw(io.FileIO):
        """A raw file whose writes count."""

        def write(self, data: Any) -> Any:
            path = _place(self.fileno()) or str(self.name)
            view = memoryview(data).cast("B")
            write = super().write

            def half() -> None:
                write(view[: len(view) // 2])

            layer.unflushed.add(path)
            layer.call("write", path, half)
            return super().write(data)

        def truncate(self, size: Any = None) -> Any:
            layer.call("truncate", str(_place(self.fileno())))
            return super().truncate(size)

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        path = _place(file)
        if not set(mode) & set("wax+") or not layer.watched(path):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        assert path is not None
        if not isinstance(file, int):
            layer.call("open", path)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd=closefd, opener=opener)
        if "r" not in mode:
            layer.unflushed.add(path)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
        buffered = kind(raw, size)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text

    builtins.open = opened  # type: ignore[assignment]
    io.open = opened  # type: ignore[assignment]
    io._io.open = opened  # type: ignore[attr-defined]


def _replace_os(layer: Layer) -> None:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = _place(path, dir_fd)
        # A lock that is there is opened, and nothing is written.
        lock = place is not None and place.endswith(".lock") and os.path.exists(place)
        if flags & writing and place is not None and layer.watched(place) and not lock:
            layer.call("open", place)
        return int(_REPLACED["open"](path, flags, mode, dir_fd=dir_fd))

    def os_write(fd: int, data: Any) -> int:
        place = _place(fd)
        if place is not None and layer.watched(place):
            view = memoryview(data).cast("B")
            layer.unflushed.add(place)
            layer.call("write", place, lambda: _REPLACED["write"](fd, view[: len(view) // 2]))
        return int(_REPLACED["write"](fd, data))

    def fsync(fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        place = _place(number)
        if place is not None and layer.watched(place):
            layer.call("fsync", place)
            layer.unflushed.discard(place)
        _REPLACED["fsync"](number)

    def moving(name: str) -> Callable[..., None]:
        def move(source: Any, target: Any, **where: Any) -> None:
            old = _place(source, where.get("src_dir_fd"))
            new = _place(target, where.get("dst_dir_fd"))
            if layer.watched(new) or layer.watched(old):
                layer.call("replace", f"{old} -> {new}")
                layer.moved(str(old), str(new))
            _REPLACED[name](source, target, **where)

        return move

    def single(name: str, kind: str) -> Callable[..., Any]:
        def one(path: Any, *rest: Any, **where: Any) -> Any:
            place = _place(path, where.get("dir_fd"))
            if layer.watched(place):
                layer.call(kind, str(place))
                if kind in ("unlink", "rmdir"):
                    layer.remove(str(place))
            return _REPLACED[name](path, *rest, **where)

        return one

    def linking(name: str) -> Callable[..., None]:
        def link(source: Any, target: Any, *rest: Any, **where: Any) -> None:
            place = _place(target)
            if layer.watched(place):
                layer.call(name, str(place))
            _REPLACED[name](source, target, *rest, **where)

        return link

    replaced: dict[str, Any] = {
        "open": os_open, "write": os_write, "fsync": fsync, "replace": moving("replace"),
        "rename": moving("rename"), "unlink": single("unlink", "unlink"),
        "remove": single("remove", "unlink"), "mkdir": single("mkdir", "mkdir"),
        "rmdir": single("rmdir", "rmdir"), "chmod": single("chmod", "chmod"),
        "link": linking("link"), "symlink": linking("symlink"),
        "truncate": single("truncate", "truncate"),
        "ftruncate": single("ftruncate", "truncate"),
    }  # fmt: skip
    for name, function in replaced.items():
        real = _REPLACED[name]
        for members in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if real in members:
                members.add(function)
        setattr(os, name, function)


def _replace_safetensors(layer: Layer) -> None:
    import safetensors.numpy
    import safetensors.torch

    for module in (safetensors.torch, safetensors.numpy):
        real = module.serialize_file

        def serialize(tensors: Any, filename: Any, metadata: Any = None, real: Any = real) -> None:
            place = _place(filename)
            if place is not None and layer.watched(place):

                def half() -> None:
                    real(tensors, filename, metadata)
                    _REPLACED["truncate"](filename, os.path.getsize(filename) // 2)

                layer.unflushed.add(place)
                try:
                    layer.call("native", place, half)
                except OSError as error:
                    # As the native code says it.
                    raise safetensors.SafetensorError(
                        f"Error while serializing: I/O error: {error.strerror} "
                        f"(os error {error.errno})"
                    ) from None
            real(tensors, filename, metadata)

        module.serialize_file = serialize
