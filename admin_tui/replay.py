"""A feed out of a file: for demonstrations, pictures and tests. Its clock is the recording's; it obeys nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from admin_tui.actions import Order
from admin_tui.courier import OnAnswer
from admin_tui.details import Detail, DetailKind, detail_kind
from admin_tui.feed import OnEvent
from admin_tui.recording import Recorded
from bus.loop import Loop
from bus.messages.observe import TimelineReply

PERIOD_S: Final = 0.1
ORIGIN_NS: Final = 1_000_000_000  # time 0 of a recording; 0 itself means "never" to the screens


class ReplayFeed:
    """Plays a recording once and stays at its end.

    Args:
        recorded: its events, see `recording.read`.
        loop: plays in real time on it; None plays all of it at once in `start`.
    """

    label = "replay"

    def __init__(self, recorded: Sequence[Recorded], loop: Loop | None = None) -> None:
        self._timelines = {r.event.request: r.event for r in recorded if isinstance(r.event, TimelineReply)}
        self._details = [(r.t, r.event) for r in recorded if isinstance(r.event, Detail)]
        self._pending: deque[Recorded] = deque(r for r in recorded if not isinstance(r.event, TimelineReply | Detail))
        self._loop = loop
        self._t = 0.0
        self._on_event: OnEvent = lambda _: None

    def start(self, on_event: OnEvent) -> None:
        """Begin to play."""
        self._on_event = on_event
        if self._loop is None:
            self._play(float("inf"))
            return
        began_ns, loop = self._loop.now_ns(), self._loop
        self._stop = loop.every(PERIOD_S, lambda: self._play((loop.now_ns() - began_ns) / 1e9))
        self._play(0.0)

    def now_ns(self) -> int:
        """The time of the latest event."""
        return ORIGIN_NS + round(self._t * 1e9)

    def ask_timeline(self, request: int) -> None:
        """Answered from the file."""
        self._on_event(self._timelines.get(request) or TimelineReply(0, request, ()))

    def ask(self, kind: DetailKind) -> None:
        """Answered with what the recording has of this time, or else with the first that it has."""
        known = [(t, detail) for t, detail in self._details if detail_kind(detail) == kind]
        if known:
            self._on_event(next((detail for t, detail in reversed(known) if t <= self._t), known[0][1]))

    def give(self, order: Order, on_answer: OnAnswer, *, supervised: bool) -> None:  # noqa: ARG002
        """Refused: there is nobody to obey."""
        on_answer(False, f"this is a recording; {order.verb} reaches nobody")

    def close(self) -> None:
        """Stop playing."""
        self._pending.clear()
        if self._loop is not None:
            self._stop()

    def _play(self, until_t: float) -> None:
        while self._pending and self._pending[0].t <= until_t:
            recorded = self._pending.popleft()
            self._t = recorded.t
            self._on_event(recorded.event)
