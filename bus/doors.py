"""What a listening socket counts of itself, and how long messages take there and back. No sockets.

Round trips are those of heartbeats: each side says when it sent one, and which of the other's it heard last, how long
ago. So both know the time on the way without comparing clocks. The event loops of both sides are in it: that is what a
message really waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Final

from bus.messages.common import Heartbeat
from bus.messages.vitals import Door, DoorKind, DoorPeer

MAX_PEERS: Final = 64
_REMEMBERED: Final = 120  # heartbeats: a minute


class RoundTrips:
    """Of one conversation, at one of its ends."""

    __slots__ = ("_heard_ns", "_theirs_ns", "took")

    def __init__(self) -> None:
        self._theirs_ns = self._heard_ns = 0
        self.took: deque[int] = deque(maxlen=_REMEMBERED)

    def heard(self, heartbeat: Heartbeat, now_ns: int) -> None:
        """The other side's heartbeat came."""
        self._theirs_ns, self._heard_ns = heartbeat.sent_ns, now_ns
        if heartbeat.echo_ns and (took := now_ns - heartbeat.echo_ns - heartbeat.held_ns) >= 0:
            self.took.append(took)

    def beat(self, heartbeat: Heartbeat, now_ns: int) -> Heartbeat:
        """Our heartbeat, for the other side."""
        held_ns = now_ns - self._heard_ns if self._theirs_ns else 0
        return Heartbeat(
            heartbeat.progress, heartbeat.busy, heartbeat.state, now_ns, self._theirs_ns, held_ns
        )  # fmt: skip


class DoorCounts:
    """Of one door."""

    __slots__ = ("dropped", "received", "refused", "sent")

    def __init__(self) -> None:
        self.received = self.sent = self.dropped = 0
        self.refused: dict[str, int] = {}

    def refuse(self, reason: str) -> None:
        """A message was not taken."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def door(
        self,
        name: str,
        kind: DoorKind,
        peers: Iterable[DoorPeer],
        total: int,
        trips: Iterable[RoundTrips] = (),
        *,
        queue_limit: int = 0,
    ) -> Door:
        """For telemetry. Of `peers` no more are taken than are shown."""
        shown = tuple(peer for peer, _ in zip(peers, range(MAX_PEERS), strict=False))
        took = list(chain.from_iterable(each.took for each in trips))
        return Door(
            name, kind, total, self.received, self.sent, sum(peer.queue for peer in shown), queue_limit, self.dropped,
            tuple(sorted(self.refused.items())), shown, *quantiles(took),
        )  # fmt: skip


def quantiles(took: Iterable[int]) -> tuple[int, int]:
    """Median and 99th of a hundred; 0 of nothing."""
    ordered = sorted(took)
    return (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]) if ordered else (0, 0)
