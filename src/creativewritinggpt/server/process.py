"""The process that serves an application: sockets, time limits of a connection, signals.

PyTorch is not imported here, so that the studio has a page before it has a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Any

from ..errors import Closing, InputError
from .security import MAX_BODY, Guard

HEADER_SECONDS = 10.0
"""Time in which a client has to send the head of a request."""
DRAIN_SECONDS = 5.0
"""Time that unfinished texts get when the server ends."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen; for a loopback name those of IPv4 and IPv6 on one port.

    Raises:
        InputError: The address can't be listened on.
    """
    hosts = ["127.0.0.1", "::1"] if host in ("localhost", "127.0.0.1") else [host]
    found: list[socket.socket] = []
    for place, name in enumerate(hosts):
        family = socket.AF_INET6 if ":" in name else socket.AF_INET
        try:
            # With the protocol named, asyncio switches Nagle's algorithm off: an answer's head and
            # body would else wait 40 ms for each other.
            made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            if hasattr(socket, "IPV6_V6ONLY") and family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((name, port))
            made.listen(128)
        except OSError as error:
            if place:  # a machine without IPv6
                continue
            raise InputError(
                f"can't listen on {host}, port {port}: {error.strerror}",
                "choose another port with --port, or 0 for a free one",
            ) from error
        port = made.getsockname()[1]
        found.append(made)
    return found


def run_server(
    app: Guard,
    sockets: list[socket.socket],
    close: Callable[[float], None],
    *,
    websockets: bool = False,
    ready: Callable[[], None] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; the exit code.

    Args:
        app: The application, behind its guard.
        sockets: Where it listens.
        close: Ends the work behind it, given the seconds that unfinished texts get; called once
            at a signal with :data:`DRAIN_SECONDS`, and once more with 0 at the end.
        websockets: Whether it takes WebSockets.
        ready: Called in the event loop's thread as soon as requests are taken.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """HTTP with a time limit for the head of a request."""

        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
                self._arm()
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            super().handle_websocket_upgrade(event)
            self._disarm()

        def _arm(self) -> None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self) -> None:
            self._deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws=_socket_protocol(app) if websockets else "none",
        ws_max_size=MAX_BODY,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        limit_concurrency=512,
        h11_max_incomplete_event_size=16 << 10,
    )
    caught: list[int] = []

    class Server(uvicorn.Server):
        """A server whose signals end the work behind it first."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if ready is not None:
                ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.closing = True
            await super().shutdown(sockets)

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            before = {number: signal.getsignal(number) for number in _signals()}
            loop = asyncio.get_running_loop()

            def draining() -> None:
                self._draining = loop.create_task(self._drain())  # kept, or it might be collected

            def stop(number: int, frame: Any) -> None:
                caught.append(number)
                if len(caught) == 1:
                    loop.call_soon_threadsafe(draining)
                else:
                    self.should_exit = self.force_exit = True

            for number in before:
                signal.signal(number, stop)
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def _drain(self) -> None:
            await asyncio.to_thread(close, DRAIN_SECONDS)
            self.should_exit = True

    try:
        Server(config).run(sockets=sockets)
    finally:
        close(0)
    return 130 if caught[:1] == [signal.SIGINT] else 0


def _socket_protocol(app: Guard) -> type[asyncio.Protocol]:
    """The protocol of WebSockets; one that is not open when the server ends gets status 503."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    class Protocol(WebSocketsSansIOProtocol):
        def send_500_response(self) -> None:
            if not app.closing:
                super().send_500_response()
            elif not self.handshake_complete and self.initial_response is None:
                self.conn.send_response(self.conn.reject(503, Closing().message))
                self.transport.write(b"".join(self.conn.data_to_send()))

    return Protocol


def _signals() -> tuple[signal.Signals, ...]:
    return (signal.SIGINT, signal.SIGTERM)
