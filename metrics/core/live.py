"""Requests in schedulers' hands, as the schedulers last listed them. Nothing is inferred here."""

from __future__ import annotations

from itertools import chain
from typing import Final

from bus.messages.telemetry import LiveRequest, LiveRequests

STALE_NS: Final = 3_000_000_000
MAX_LISTED: Final = 500


class Live:
    """The latest list of each scheduler. A list that nobody renews is not shown: its scheduler is late or dead."""

    def __init__(self) -> None:
        self._lists: dict[str, tuple[int, LiveRequests]] = {}

    def take(self, listed: LiveRequests, now_ns: int) -> None:
        """A scheduler's list."""
        self._lists[listed.name] = (now_ns, listed)

    def expire(self, now_ns: int) -> None:
        """Drop what nobody renewed."""
        for name, (at, _) in list(self._lists.items()):
            if now_ns - at >= STALE_NS:
                del self._lists[name]

    def requests(self) -> tuple[LiveRequest, ...]:
        """All schedulers' requests, longest-lived first, at most `MAX_LISTED`."""
        everyone = chain.from_iterable(listed.requests for _, listed in self._lists.values())
        return tuple(sorted(everyone, key=lambda live: (-live.age_ns, live.request))[:MAX_LISTED])

    def lists(self) -> dict[str, LiveRequests]:
        """What each scheduler said last."""
        return {name: listed for name, (_, listed) in self._lists.items()}

    def total(self) -> int:
        """How many there are, listed or not."""
        return sum(listed.total for _, listed in self._lists.values())
