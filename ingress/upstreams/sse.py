"""Server-sent events from bytes, as the HTML standard reads them, with bounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ingress.upstreams.heard import Garbage

MAX_EVENT: Final = 1 << 20  # bytes of one event, and of one line


class Event(NamedTuple):
    """One event. `type` is empty where it has none."""

    type: str
    data: str


class Events:
    """A stream, cut anywhere."""

    def __init__(self, most: int = MAX_EVENT) -> None:
        self._most = most
        self._rest = b""  # of a line that is not complete
        self._data: list[bytes] = []
        self._size = 0
        self._type = b""
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that are complete now. To be read to its end.

        Raises:
            Garbage: one is larger than `most`, or not UTF-8.
        """
        if not self._begun:
            # A byte order mark may come cut, too.
            whole = self._rest + data
            if whole in (b"", b"\xef", b"\xef\xbb"):
                self._rest = whole
                return
            self._begun, self._rest, data = True, b"", whole.removeprefix(b"\xef\xbb\xbf")
        *lines, self._rest = _lines(self._rest + data)
        for line in lines:
            if line:
                self._line(line)
            elif event := self._dispatch():
                yield event
        if len(self._rest) > self._most:
            raise Garbage("a line of its stream has no end")

    def _line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value)
            if self._size > self._most:
                raise Garbage("an event of its stream has no end")
            self._data.append(value)
        elif name == b"event":
            self._type = value[:64]

    def _dispatch(self) -> Event | None:
        data, self._data, self._size = self._data, [], 0
        kind, self._type = self._type, b""
        if not data:
            return None
        try:
            return Event(kind.decode(), b"\n".join(data).decode())
        except UnicodeDecodeError:
            raise Garbage("its stream is not UTF-8") from None


def _lines(data: bytes) -> list[bytes]:
    """Complete lines, and the rest last. A carriage return at the very end may be half of a line's end."""
    if b"\r" not in data:
        return data.split(b"\n")
    tail = b"\r" if data.endswith(b"\r") else b""
    body = data[: len(data) - len(tail)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = body.split(b"\n")
    return [*lines, rest + tail]
