"""Streams that can be read again: events of a response by number, for a client that lost its connection.

A replay outlives its listeners for a grace time, in which generation goes on; then it is abandoned and its work
aborted. A finished one is kept for the same time. Count and bytes are bounded: the oldest finished ones go first, and
of stored ones those of a project that has more than its quota.
The store knows no sockets; bodies are opaque. Times are CLOCK_MONOTONIC nanoseconds, given by the caller.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ingress.api.events import Hear
from ingress.quota import Quota, Shelves
from ingress.records import Opening

MAX_REPLAYS: Final = 4096
MAX_BYTES: Final = 256 << 20
QUOTA: Final = Quota(MAX_REPLAYS // 4, MAX_BYTES // 4)
MAX_EVENTS_BYTES: Final = 32 << 20  # of one response; beyond it the earliest events can no longer be read again


class Keeping(NamedTuple):
    """How long a replay is kept.

    Attributes:
        stored: for the store's longer time, once it is complete.
        unattended: it grows whether anybody listens or not.
    """

    stored: bool = False
    unattended: bool = False


def _nothing() -> None:
    pass


class EventsGone(LookupError):
    """Events that were asked for are no longer kept, or were never there."""


class _Listener(NamedTuple):
    """Somebody who has heard all there is; `over` says whether that is all there will be."""

    hear: Hear
    over: asyncio.Future[bool]


class Replay:
    """The events of one response, numbered from 1. Any number may listen, now or later.

    Attributes:
        response: the id under which it is resumed.
        owner: who may (the tenant).
        listeners: how many are connected now.
        idle_ns: since when nobody listens to it, or it is complete; 0 while somebody does.
        requests: of its choices.
        keeping: how long it is kept.
        opening: the call that it answers; None where that is not known.
    """

    def __init__(
        self,
        response: str,
        owner: str,
        on_abandoned: Callable[[], None],
        now_ns: int,
        on_dropped: Callable[[], None] = _nothing,
    ) -> None:
        self.response, self.owner = response, owner
        self.listeners = 0
        self.idle_ns = now_ns
        self.bytes = 0
        self.complete = False
        self.requests: Sequence[int] = ()
        self.keeping = Keeping()
        self.opening: Opening | None = None
        self._on_abandoned, self._on_dropped = on_abandoned, on_dropped
        self._events: list[bytes] = []
        self._first = 1  # number of the first one that is kept
        self._listeners: list[_Listener] = []

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._first + len(self._events) - 1

    @property
    def size(self) -> int:
        """Bytes of it and of the call that it answers."""
        opening = self.opening
        if opening is None:
            return self.bytes
        return self.bytes + len(opening.body) + len(opening.earlier) + sum(map(len, opening.prompts))

    def append(self, body: bytes) -> int:
        """Add an event; its number."""
        self._events.append(body)
        self.bytes += len(body)
        if self.bytes > MAX_EVENTS_BYTES:
            self._forget_half()
        for listener in self._listeners:
            _tell(listener, self.last, body)
        return self.last

    def close(self, now_ns: int) -> None:
        """No event will follow."""
        self.complete, self.idle_ns = True, now_ns
        self._end()

    def attach(self) -> None:
        """Somebody listens."""
        self.listeners += 1
        if not self.complete:
            self.idle_ns = 0

    def detach(self, now_ns: int) -> None:
        """... and has gone."""
        self.listeners -= 1
        if not self.listeners and not self.complete:
            self.idle_ns = now_ns

    def abandon(self) -> None:
        """Nobody will come back: end the work that fills it, unless it is wanted all the same."""
        if not self.keeping.unattended:
            self._end_work()

    def _end_work(self) -> None:
        if not self.complete:
            self.complete = True
            self._on_abandoned()
            self._end()

    def drop(self) -> None:
        """It is kept no longer."""
        self._end_work()
        self._on_dropped()

    def after(self, event: int) -> Sequence[bytes]:
        """The events that follow number `event`, as many as there are now.

        Raises:
            EventsGone: some of them are no longer kept, or `event` is beyond the newest.
        """
        if not self._first - 1 <= event <= self.last:
            raise EventsGone(f"events {self._first} to {self.last} of {self.response} can be read, not after {event}")
        return self._events[event - self._first + 1 :]

    async def follow(self, event: int, hear: Hear) -> bool:
        """Have all events after number `event` heard, each as it is appended; whether that was all, or there was no
        more room.

        Raises:
            EventsGone: see `after`.
        """
        for number, body in enumerate(self.after(event), start=event + 1):
            if not hear(number, body):
                return False
        if self.complete:
            return True
        listener = _Listener(hear, asyncio.get_running_loop().create_future())
        self._listeners.append(listener)
        try:
            return await listener.over
        finally:
            self._listeners.remove(listener)

    def _end(self) -> None:
        for listener in self._listeners:
            if not listener.over.done():
                listener.over.set_result(True)

    def _forget_half(self) -> None:
        half = max(1, len(self._events) // 2)
        self.bytes -= sum(map(len, self._events[:half]))
        del self._events[:half]
        self._first += half


def _tell(listener: _Listener, number: int, body: bytes) -> None:
    """What goes wrong with one who listens is nobody else's trouble."""
    if not listener.over.done():
        try:
            if not listener.hear(number, body):
                listener.over.set_result(False)
        except Exception as error:
            listener.over.set_exception(error)


class ReplayStore:
    """All replays of this process.

    Args:
        grace_s: how long one is kept that nobody listens to, or that is complete.
        stored_s: the same for a stored one that is complete.
        quota: of a project's stored ones that are complete.
    """

    def __init__(
        self,
        grace_s: float,
        stored_s: float = 0.0,
        *,
        quota: Quota = QUOTA,
        max_replays: int = MAX_REPLAYS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._shelves = Shelves(quota)
        self._grace_ns, self._stored_ns = int(grace_s * 1e9), int(max(grace_s, stored_s) * 1e9)
        self._max_replays, self._max_bytes = max_replays, max_bytes
        self._crowded = max_replays  # beyond so many, room is made
        self._replays: dict[str, Replay] = {}

    def __len__(self) -> int:
        return len(self._replays)

    def create(
        self,
        response: str,
        owner: str,
        on_abandoned: Callable[[], None],
        now_ns: int,
        on_dropped: Callable[[], None] = _nothing,
    ) -> Replay:
        """A new, empty one. `on_abandoned` is called when nobody came back for the grace time while it grew,
        `on_dropped` when it is kept no longer, complete or not."""
        replay = self._replays[response] = Replay(response, owner, on_abandoned, now_ns, on_dropped)
        if len(self._replays) > self._crowded:
            self._shrink()
            # Those that grow stay, and looking at all of them for each new one would cost the more the more they are.
            self._crowded = max(self._max_replays, len(self._replays)) + self._max_replays // 8
        return replay

    def close(self, replay: Replay, now_ns: int) -> None:
        """No event of it will follow. A stored one counts from now on, and older ones of the same key or project may
        have to go for it. Lines of batches do not: their batch is bounded, and fetches them soon."""
        replay.close(now_ns)
        opening = replay.opening
        if opening is None or not replay.keeping.stored or opening.batch or replay.response not in self._replays:
            return
        for response in self._shelves.put(replay.response, opening.tenant, replay.owner, replay.size):
            self._drop(self._replays[response])

    def get(self, response: str, owner: str) -> Replay | None:
        """The one of that id, if it is the owner's: another's is as good as unknown."""
        replay = self._replays.get(response)
        return replay if replay is not None and replay.owner == owner else None

    def sweep(self, now_ns: int) -> None:
        """Let go of those whose grace is over. Call it about once a second."""
        for replay in tuple(self._replays.values()):
            if replay.idle_ns and not replay.listeners and now_ns - replay.idle_ns >= self._patience_ns(replay):
                self._drop(replay)
        self._shrink()

    def drop(self, replay: Replay) -> None:
        """Let go of one."""
        if self._replays.get(replay.response) is replay:
            self._drop(replay)

    def abandon_all(self) -> None:
        """End the work of all, and forget them."""
        for replay in tuple(self._replays.values()):
            self._drop(replay)

    def _shrink(self) -> None:
        held = sum(replay.bytes for replay in self._replays.values())
        # Oldest first (dicts keep order). Live ones stay: their number is bounded by the streams that may be open,
        # their size each by MAX_EVENTS_BYTES.
        for replay in tuple(self._replays.values()):
            if len(self._replays) <= self._max_replays and held <= self._max_bytes:
                return
            if replay.complete and not replay.listeners:
                held -= replay.bytes
                self._drop(replay)

    def _patience_ns(self, replay: Replay) -> float:
        if replay.complete:
            return self._stored_ns if replay.keeping.stored else self._grace_ns
        return math.inf if replay.keeping.unattended else self._grace_ns

    def _drop(self, replay: Replay) -> None:
        del self._replays[replay.response]
        if replay.opening is not None:
            self._shelves.drop(replay.response, replay.opening.tenant, replay.owner)
        replay.drop()
