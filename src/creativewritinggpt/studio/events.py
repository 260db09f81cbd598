"""The event log: what happens in the studio, numbered, and one WebSocket per tab that tells it.

A tab says the number of the last event that it knows and gets all later ones, whether it was
closed, asleep or slow in between. The log is bounded by number and by bytes; a tab that knows less
than it holds fetches the state anew (``reset``). No queue belongs to a socket: it reads the log at
its own pace, and one that falls out of it, or takes nothing for :data:`PATIENCE` seconds, is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.websockets import WebSocket, WebSocketDisconnect

MOST_EVENTS = 20_000
MOST_BYTES = 32 << 20
MOST_MESSAGE = 1 << 20
"""Bytes of a message to a tab."""
FRAME_SECONDS = 0.02
"""Time in which events are collected for one message."""
PATIENCE = 20.0
"""Seconds in which a tab has to take a message."""
_PING_SECONDS = 20.0


class Event(NamedTuple):
    """An event: its number and its JSON."""

    n: int
    text: str


class EventLog:
    """The last events, for any number of readers; may be used from any thread.

    Attributes:
        epoch: Differs after each start: numbers of another epoch mean nothing.
    """

    def __init__(self, most: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self.epoch = secrets.token_hex(8)
        self._most, self._most_bytes = most, most_bytes
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._n = 0
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()

    @property
    def n(self) -> int:
        """Number of the last event."""
        return self._n

    def publish(self, kind: str, **fields: Any) -> int:
        """Append an event.

        One that is longer than a message goes without its largest field, which is then null: the
        page asks for it.

        Returns:
            Its number.
        """
        record: dict[str, Any] = {"kind": kind, **fields}
        text = _json(record)
        if len(text) > MOST_MESSAGE // 4 and _size(text) > MOST_MESSAGE - 64:
            largest = max(fields, key=lambda name: len(json.dumps(fields[name])))
            text = _json({**record, largest: None})
        with self._lock:
            self._n += 1
            event = Event(self._n, f'{{"n":{self._n},{text[1:]}')
            self._events.append(event)
            self._bytes += len(event.text)
            while len(self._events) > self._most or (
                self._bytes > self._most_bytes and len(self._events) > 1
            ):
                self._bytes -= len(self._events.popleft().text)
            n, wakers = self._n, list(self._wakers.values())
        for wake in wakers:
            wake()
        return n

    def since(self, n: int, most: int = 1000) -> list[Event] | None:
        """The events after number ``n``, oldest first; None where some of them are gone."""
        with self._lock:
            if n > self._n or (n < self._n and (not self._events or self._events[0].n > n + 1)):
                return None
            skipped = n + 1 - self._events[0].n if self._events else 0
            return list(itertools.islice(self._events, max(0, skipped), max(0, skipped) + most))

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after each event, from the thread that published it.

        Returns:
            A function that ends this.
        """
        with self._lock:
            number = next(self._numbers)
            self._wakers[number] = wake

        def end() -> None:
            with self._lock:
                self._wakers.pop(number, None)

        return end


class Tabs:
    """The tabs that are open, and the one that writes.

    Args:
        events: Where a change of the writing tab is told.

    Attributes:
        on_came: Called whenever a tab opens a socket.
    """

    GRACE = 3.0
    """Seconds without a socket after which a tab counts as closed."""

    def __init__(self, events: EventLog, clock: Callable[[], float]) -> None:
        self._events = events
        self._clock = clock
        self._sockets: dict[str, int] = {}
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()
        self.writer: str | None = None
        self.on_came: Callable[[], None] = lambda: None

    def came(self, tab: str) -> None:
        """A tab has opened a socket, as a page does that is whole; the first one writes."""
        self.on_came()
        with self._lock:
            self._sockets[tab] = self._sockets.get(tab, 0) + 1
            self._left.pop(tab, None)
            free = self.writer is None or not self._there(self.writer)
        if free:
            self.write(tab)

    def went(self, tab: str) -> None:
        """A tab has lost a socket."""
        with self._lock:
            self._sockets[tab] = self._sockets.get(tab, 1) - 1
            if self._sockets[tab] <= 0:
                del self._sockets[tab]
                self._left[tab] = self._clock()

    def write(self, tab: str) -> None:
        """Let a tab write and the others follow."""
        with self._lock:
            if self.writer == tab:
                return
            self.writer = tab
            if tab not in self._sockets:
                self._left[tab] = self._clock()
        self._events.publish("writer", tab=tab)

    def may_write(self, tab: str | None) -> bool:
        """Whether a tab may change the story; it becomes the one that writes where that is gone.

        Requests without a tab (scripts) always may.
        """
        if tab is None or tab == self.writer:
            return True
        with self._lock:
            there = self.writer is not None and self._there(self.writer)
        if there:
            return False
        self.write(tab)
        return True

    def _there(self, tab: str) -> bool:
        left = self._left.get(tab)
        return tab in self._sockets or (left is not None and self._clock() - left < self.GRACE)


async def tell(socket: WebSocket, events: EventLog, tabs: Tabs) -> None:
    """Serve the WebSocket of a tab: ``hello``, then arrays of events, as they come.

    Args:
        socket: The socket, with ``since``, ``epoch`` and ``tab`` in its query.
        events: The log.
        tabs: The open tabs.
    """
    query = socket.query_params
    tab = query.get("tab", "")[:64]
    try:
        since = int(query.get("since", "-1"))
    except ValueError:
        since = -1
    await socket.accept()
    n = events.n
    reset = query.get("epoch") != events.epoch or since < 0 or events.since(since, 0) is None
    if not reset:
        n = since
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(news.set)

    end = events.subscribe(wake)
    if tab:
        tabs.came(tab)
    gone = asyncio.ensure_future(_until_gone(socket))
    try:
        hello = {
            "kind": "hello", "epoch": events.epoch, "n": events.n, "writer": tabs.writer,
            "reset": reset,
        }  # fmt: skip
        await _send(socket, json.dumps(hello))
        while not gone.done():
            news.clear()
            found = events.since(n)
            if found is None:
                await socket.close(1013, "too slow")
                return
            if found:
                n = await _send_events(socket, found)
                await asyncio.wait({gone}, timeout=FRAME_SECONDS)
                continue
            waiter = asyncio.ensure_future(news.wait())
            await asyncio.wait(
                {gone, waiter}, timeout=_PING_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            waiter.cancel()
    except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
        with contextlib.suppress(Exception):
            await asyncio.wait_for(socket.close(1013, "too slow"), 1)
    finally:
        end()
        gone.cancel()
        if tab:
            tabs.went(tab)


async def _send_events(socket: WebSocket, found: list[Event]) -> int:
    """Send events as arrays of at most :data:`MOST_MESSAGE` bytes; the last number."""
    batch: list[str] = []
    size = 2
    for event in found:
        length = _size(event.text)
        if batch and size + length + 1 > MOST_MESSAGE:
            await _send(socket, f"[{','.join(batch)}]")
            batch, size = [], 2
        batch.append(event.text)
        size += length + 1
    await _send(socket, f"[{','.join(batch)}]")
    return found[-1].n


def _json(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    # Half a pair of surrogates can't be sent.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


async def _send(socket: WebSocket, text: str) -> None:
    await asyncio.wait_for(socket.send_text(text), PATIENCE)


async def _until_gone(socket: WebSocket) -> None:
    """Wait until the tab goes away; what it sends is not read."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
