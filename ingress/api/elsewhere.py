"""A stream at a sibling, read through this process. When the sibling dies it is looked for again, and read on: its
listener notices nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from ingress.api.answer import envelope
from ingress.api.events import Events, Hear
from ingress.errors import ApiError


class Lost(Exception):
    """Whoever had a stream is gone."""


class Remote(Events, Protocol):
    """A stream at one sibling. `follow` raises `Lost` where that is gone before the stream was complete."""


class Elsewhere:
    """The same to a front as a `Replay`.

    Args:
        again: finds it after event N, here or at another sibling.
    """

    def __init__(self, first: Events, again: Callable[[int], Awaitable[Events]]) -> None:
        self._at, self._again = first, again

    @property
    def response(self) -> str:
        """The id under which it is resumed."""
        return self._at.response

    @property
    def listeners(self) -> int:
        """Of this process."""
        return self._at.listeners

    def attach(self) -> None:
        """Somebody listens."""
        self._at.attach()

    def detach(self, now_ns: int) -> None:
        """... and has gone."""
        self._at.detach(now_ns)

    def abandon(self) -> None:
        """Not wanted any more."""
        self._at.abandon()

    async def follow(self, event: int, hear: Hear) -> bool:
        """All events after number `event`; see `Events`."""
        last = event

        def count(number: int, body: bytes) -> bool:
            nonlocal last
            last = number
            return hear(number, body)

        while True:
            try:
                return await self._at.follow(last, count)
            except Lost as lost:
                why = f"The process that answered is gone: {lost}."
            try:
                found = await self._again(last)
            except ApiError:
                return hear(last + 1, envelope(ApiError(502, "server_error", why, code="stream_lost")))
            found.attach()
            self._at, lost_at = found, self._at
            lost_at.detach(0)
