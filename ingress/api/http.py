"""The HTTP server: uvicorn's protocol on a shared port, with limits that it leaves to others. No routes here.

Only uvicorn's connection class is used. Its `Server` would take over signals and wake up ten times a second; a process
has one life, and that is `bus.process`'s.
"""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from functools import partial
from typing import Any, Final

from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from bus.config import parse_address, parse_size
from bus.process import Life
from ingress.api.answer import envelope
from ingress.api.app import App
from ingress.api.exposition import MetricsClient
from ingress.api.listener import Listener
from ingress.api.pipeline import Pipeline
from ingress.api.port import Port, listen
from ingress.api.request import MAX_HEADER_BYTES, new_number
from ingress.errors import ApiError, crowded

log = logging.getLogger(__name__)

HEAD_S: Final = 15.0  # for a whole request head to arrive, from the first byte or the connection
IDLE_S: Final = 75.0  # between requests on one connection
STALLED_S: Final = 60.0  # for a client to read something, once the buffers are full
SILENT_S: Final = 2.0  # in a drain, for the request of a connection that is new
MAX_CONNECTIONS: Final = 8192


class State(ServerState):
    """What the connections of a server share.

    Attributes:
        draining: every answer is its connection's last.
    """

    draining = False
    connections: set[Connection]  # type: ignore[assignment]


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with an end to slow and endless heads, to readers that do not read, and to crowds."""

    server_state: State

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0  # of a head that has begun and not ended, without the piece that it began in
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(crowded())
        else:
            self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > 2 * MAX_HEADER_BYTES:
            self._refuse(ApiError(431, "invalid_request_error", "Too many headers.", code="headers_too_large"))
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        # Who has just connected was sent here by the kernel, and is served; who was answered here can go elsewhere.
        self.scope["state"]["turned_away"] = self.server_state.draining and self.cycle is not None
        super().on_headers_complete()
        # The next request may be here before this one is answered: each writes for its own.
        self.scope["state"]["write_now"] = partial(_write_now, self.cycle)
        if self.server_state.draining:
            self.cycle.keep_alive = False

    def announce_end(self) -> None:
        """Tell the client, if it is being answered and it is not too late, that this connection will be closed."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def end(self) -> None:
        """Close it, whatever is under way."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # an answer that ends unfinished is no bug of the application
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "invalid_request_error", msg, code="invalid_http"))

    def _head_late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(ApiError(408, "invalid_request_error", "The request did not arrive.", code="timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer without a request, and close."""
        body = envelope(error)
        if self.cycle is None or self.cycle.response_complete:  # else the bytes would land inside an answer
            wait = "" if (seconds := error.retry_after_header) is None else f"retry-after: {seconds}\r\n"
            head = (
                f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\n"
                f"x-request-id: req_{new_number():016x}\r\n"
                f"content-length: {len(body)}\r\n{wait}connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def _write_now(cycle: RequestResponseCycle, data: bytes) -> bool:
    """A part of a body whose length is not known, as `cycle.send` writes it, but for a task that has to wake up for it.
    Whether there is room for more; who is gone has all there is."""
    if cycle.disconnected:
        return True
    if cycle.scope["method"] != "HEAD":
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
    return not cycle.flow.write_paused


class HttpFront:
    """The running server.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, app: App, listening: Port, life: Life) -> None:
        self._app = app
        self.port = listening.number
        self._state = State()
        # A loop that has no asyncio in it (PollLoop) is a mistake of the process's `main`.
        loop: asyncio.AbstractEventLoop = life.loop.asyncio  # type: ignore[attr-defined]
        config = UvicornConfig(
            app, interface="asgi3", http=Connection, ws="none", loop="none", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=IDLE_S,  # type: ignore[arg-type]
        )  # fmt: skip
        config.load()
        self._date()
        self._stop_clock = life.loop.every(1.0, self._date)
        self._loop, self._patient_until = loop, 0.0
        self._listener = Listener(
            loop, listening, lambda: Connection(config=config, server_state=self._state, app_state={}, _loop=loop)
        )

    @property
    def busy(self) -> bool:
        """Whether any answer is not completely written, or requests may still come."""
        silent = any(connection.cycle is None for connection in self._state.connections)
        return self._app.open > 0 or self._listener.leaving or (silent and self._loop.time() < self._patient_until)

    def drain(self) -> None:
        """Leave the port to others. A connection that is here is answered once more, then it is closed."""
        self._state.draining = True
        self._patient_until = self._loop.time() + SILENT_S
        self._listener.leave()
        for connection in tuple(self._state.connections):
            connection.announce_end()

    def undrain(self) -> None:
        """Listen again."""
        self._state.draining = False
        self._listener.come_back()

    def close(self) -> None:
        """Stop listening and drop every connection; what is in the buffers still goes out."""
        self._stop_clock()
        self._listener.close()
        for connection in tuple(self._state.connections):
            connection.end()

    def _date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]


def serve(pipeline: Pipeline, metrics: MetricsClient, life: Life) -> HttpFront:
    """Listen on the configured address; connections are taken from now on.

    Raises:
        OSError: the address cannot be used; `PortTaken` where somebody else has it.
    """
    settings = life.config.ingress
    host, port = parse_address(settings.http)
    listening = listen(host, port, life.run)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # bad requests of strangers are no news
    app = App(pipeline, metrics, max_body=parse_size(settings.max_body))
    front = HttpFront(app, listening, life)
    log.info("listening on http://%s:%d", host, front.port)
    return front
