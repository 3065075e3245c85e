"""The events of a response as its fronts see them, wherever they are kept. An interface, no behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Hear = Callable[[int, bytes], bool]
"""Takes an event, number and body; False where there is no room for another."""


class Events(Protocol):
    """Numbered events that can be followed: a `Replay` of this process, or a stream at a sibling.

    Attributes:
        response: the id under which it is resumed.
        listeners: how many are connected now.
    """

    @property
    def response(self) -> str: ...
    @property
    def listeners(self) -> int: ...

    def attach(self) -> None:
        """Somebody listens."""
        ...

    def detach(self, now_ns: int) -> None:
        """... and has gone."""
        ...

    def abandon(self) -> None:
        """Nobody will come back: end the work behind it."""
        ...

    async def follow(self, event: int, hear: Hear) -> bool:
        """Have all events after number `event` heard, as they come; whether that was all, or there was no more room.

        Raises:
            EventsGone: some of them are no longer kept.
        """
        ...
