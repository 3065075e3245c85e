"""The events of a response as its fronts see them, wherever they are kept. An interface, no behaviour."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


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

    def follow(self, event: int) -> AsyncIterator[tuple[int, bytes]]:
        """All events after number `event`.

        Raises:
            EventsGone: some of them are no longer kept.
        """
        ...
