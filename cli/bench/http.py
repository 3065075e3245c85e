"""Just enough HTTP/1.1 to measure with: POST, and server-sent events with the time at which each was there.

A load generator shares the machine with what it measures. Through a general HTTP client an event costs several times
what it costs the server to send it; here it is a parser in C and a split.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import httptools

_READ: Final = 1 << 16


class HttpFailed(Exception):
    """No answer, or not HTTP."""


class _Collector:
    """Callbacks of the parser."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def take(self) -> bytes:
        data = b"".join(self.body)
        self.body.clear()
        return data


async def request(
    method: str, url: str, body: bytes = b"", *, token: str = "", on_event: Callable[[bytes, float], None] | None = None
) -> tuple[int, bytes]:
    """Send a request on a connection of its own.

    Args:
        token: for `Authorization: Bearer`.
        on_event: called with the data of each server-sent event of a 200, and the time (monotonic, seconds) at which
            the bytes that completed it were read.

    Returns:
        Status, and the body that was not events.

    Raises:
        HttpFailed: refused, broken off, or not HTTP.
    """
    try:
        return await _exchange(method, url, body, token, on_event)
    except (OSError, httptools.HttpParserError, ssl.SSLError) as error:
        raise HttpFailed(f"{url}: {type(error).__name__}: {error}") from None


async def _exchange(
    method: str, url: str, body: bytes, token: str, on_event: Callable[[bytes, float], None] | None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or (443 if secure else 80), ssl=ssl.create_default_context() if secure else None
    )
    try:
        writer.write(_head(method, parts.netloc, parts.path or "/", len(body), token) + body)
        collector = _Collector()
        parser = httptools.HttpResponseParser(collector)
        rest = b""
        while not collector.complete:
            data = await reader.read(_READ)
            at = time.monotonic()
            if not data:
                raise HttpFailed("the connection was closed in the middle of an answer")
            parser.feed_data(data)
            if on_event is not None and parser.get_status_code() == 200:
                *events, rest = (rest + collector.take()).replace(b"\r\n", b"\n").split(b"\n\n")
                for event in events:
                    if payload := event_data(event):
                        on_event(payload, at)
        return parser.get_status_code(), rest + collector.take()
    finally:
        writer.close()


def _head(method: str, host: str, path: str, length: int, token: str) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: close",
        "Accept: */*",
        *([f"Authorization: Bearer {token}"] if token else []),
        *(["Content-Type: application/json", f"Content-Length: {length}"] if length else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def event_data(event: bytes) -> bytes:
    """The data of one server-sent event; empty for comments and for events without."""
    return b"\n".join(line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
