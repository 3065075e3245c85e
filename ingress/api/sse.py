"""Server-sent events, and the sink that answers are written to.

A `Sink` is what the rest of the HTTP front knows of the server library: five calls. Another server is another sink.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Protocol

from ingress.api.answer import is_failure, told_failure
from ingress.api.events import Events
from ingress.api.surfaces import Surface

Headers = Sequence[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# no-transform and X-Accel-Buffering keep proxies from holding events back.
STREAM_HEADERS: Final[Headers] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


class Sink(Protocol):
    """Where one answer goes. Those that wait return when there is room for more, so a slow reader slows its writer."""

    @property
    def started(self) -> bool:
        """Whether status and headers are out."""
        ...

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers, once."""
        ...

    async def write(self, data: bytes) -> None:
        """More of the body."""
        ...

    def write_now(self, data: bytes) -> bool:
        """The same without waiting; whether there is room for more. None of it is lost where there is not."""
        ...

    async def drain(self) -> None:
        """Return when there is room."""
        ...

    async def end(self) -> None:
        """The body is complete."""
        ...


class AsgiSink:
    """A sink on an ASGI server's `send`, and on what its connection adds to that: see `http.Connection`.

    Args:
        always: headers of every answer, asked for when it begins.
    """

    def __init__(self, send: Send, write_now: Callable[[bytes], bool], always: Callable[[], Headers]) -> None:
        self._send, self._write_now, self._always = send, write_now, always
        self.started = False

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._always()]})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def write_now(self, data: bytes) -> bool:
        return self._write_now(data)

    async def drain(self) -> None:
        await self.write(b"")

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def parse_event_id(text: str, response: str) -> int | None:
    """The number in a `Last-Event-ID` of that response; also a bare number. None where it is neither."""
    name, colon, number = text.strip().rpartition(":")
    if (colon and name != response) or not (number.isascii() and number.isdigit()) or len(number) > 18:
        return None
    return int(number)


async def write_events(sink: Sink, replay: Events, after: int, surface: Surface, clock: Callable[[], int]) -> int:
    """All events after number `after`, to the end, framed as `surface` has it. What says that the answer is whole is
    left out of a failed one. Nor has a failure an id: whoever resumes is told again, and never that nothing is missing.

    Returns:
        For how many ns of `clock` the reader was waited for.

    Raises:
        EventsGone: the reader fell so far behind that events it needs were dropped.
    """
    await sink.start(200, STREAM_HEADERS)
    last, failed, waited_ns = after, False, 0

    def hear(number: int, body: bytes) -> bool:
        nonlocal last, failed
        last, failed = number, is_failure(body)
        framed = surface.failure(told_failure(body), number) if failed else surface.event(replay.response, number, body)
        return sink.write_now(framed)

    while not await replay.follow(last, hear):
        full_ns = clock()
        await sink.drain()
        waited_ns += clock() - full_ns
    if not failed and surface.done:
        await sink.write(surface.done)
    await sink.end()
    return waited_ns
