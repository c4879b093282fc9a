"""Running the application until a signal comes: uvicorn, with time limits of our own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import threading
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detectron2.engine.serving.limits import ServeLimits

__all__ = ["make_server", "run_server"]

# Turns of the event loop until a request that has come as far as this machine is seen: one each to
# accept its connection, to set it up and to read it, and some to spare.
_TURNS = 10
# How long a connection whose answer says that it will be closed stays open: when the client is
# still sending as it closes, the kernel throws the answer away.
_LINGER = 1.0


class TimedProtocol(H11Protocol):
    """Closes connections on which a request does not come to its end.

    uvicorn waits for ever for the head of a request, and for the rest of a body that the
    application has refused. The application itself limits the time of bodies that it reads.
    """

    request_timeout = 15.0
    _deadline: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if begun or self.conn.their_state is h11.SEND_BODY:
            self._start()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.request_timeout, self._expired)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The application is still reading, and says so itself; it may take as long again.
            self._start()
            return
        # A connection that nothing was sent on is closed without a word.
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse("408 Request Timeout", "The request took too long to come.")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse("400 Bad Request", msg)

    def _refuse(self, status: str, sentence: str) -> None:
        """Answer for the application, which has not seen the request."""
        self._refused = True
        body = json.dumps({"error": sentence})
        self.transport.write(
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)


class AnsweringServer(uvicorn.Server):
    """Answers what was sent before it was told to stop.

    uvicorn drops connections that it has not accepted yet, or on which it has not read the request
    that lies there; a busy server is behind with both.
    """

    async def shutdown(self, sockets: Any = None) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def make_server(app: Any, limits: ServeLimits, host: str, port: int) -> uvicorn.Server:
    """A server that is not running yet.

    Args:
        port: 0 for any that is free.
    """
    protocol = type("Protocol", (TimedProtocol,), {"request_timeout": limits.read_timeout})
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Requests in flight have that long when the server stops.
        timeout_graceful_shutdown=math.ceil(limits.read_timeout + limits.answer_timeout),
    )
    return AnsweringServer(config)


def run_server(server: uvicorn.Server, on_ready: Any = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight, and return.

    Args:
        on_ready: called with the address once requests are taken.

    Raises:
        OSError: the address is in use or not of this machine.
    """
    with _bound(server) as sockets:
        address = sockets[0].getsockname()
        on_ready(f"http://{_in_address(server.config.host)}:{address[1]}")
        with _signals_end_quietly():
            server.run(sockets=sockets)


@contextlib.contextmanager
def _bound(server: uvicorn.Server) -> Iterator[list[Any]]:
    """Sockets of the server's address, bound here so that a failure is an exception."""
    import socket

    config = server.config
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise OSError(
                f"Cannot listen on {config.host}:{config.port} ({error.strerror or error}); "
                "choose another --port or --host."
            ) from error
        listener.listen(config.backlog)
        yield [listener]
    finally:
        listener.close()


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises a signal again when it has stopped; the process should still exit with 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.signal(kind, lambda number, frame: None) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
