"""An audit hook of the whole suite: no pickle read by the package, no shell, no code of data.

It is asked of every event of the interpreter, so it looks at the stack only for the few it knows. A
violation raises in place, and is kept, since code may catch everything.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

PACKAGE = "creativewritinggpt"
LOOPBACK = ("127.", "::1", "localhost")
seen: list[str] = []
"""What was done since the last look."""
network = False
"""Whether the current test may open connections."""
_WATCHED = frozenset(
    {"pickle.find_class", "os.system", "os.exec", "exec", "socket.connect", "socket.getaddrinfo"}
)


class Forbidden(AssertionError):
    """Something that the package must never do."""


def install() -> None:
    """Watch this process from now on; a hook can't be removed."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _WATCHED:
        return
    what = _wrong(event, arguments)
    if what:
        # A connection that is tried and does not come about harms nobody; some tests try.
        if not event.startswith("socket"):
            seen.append(what)
        raise Forbidden(what)


def _wrong(event: str, arguments: tuple[Any, ...]) -> str:
    if event == "pickle.find_class":
        # What worker processes send is pickled by this program's own other half, and what PyTorch's
        # compiler keeps by itself.
        names = _callers(sys._getframe(2))
        own = any(name.partition(".")[0] == PACKAGE for name in names)
        makers = ("multiprocessing", "concurrent.futures", "torch._inductor", "torch._dynamo")
        sent = any(name.startswith(makers) for name in names)
        return f"unpickled {arguments}" if own and not sent else ""
    if event in ("os.system", "os.exec"):
        own = any(name.partition(".")[0] == PACKAGE for name in _callers(sys._getframe(2)))
        return f"{event} {arguments}" if own else ""
    if event == "exec":
        caller = sys._getframe(2).f_globals.get("__name__", "")
        made = getattr(arguments[0], "co_filename", "").startswith("<")
        return f"exec of made-up code in {caller}" if made and caller.startswith(PACKAGE) else ""
    # A name without a host is that of a socket of this machine.
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = host[0] if isinstance(host, tuple) else host if event.endswith("info") else None
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    inside = not host or host.startswith(LOOPBACK) or host == "0.0.0.0"
    return "" if network or inside else f"{event} {host}"


def _callers(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        names.append(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    return names
