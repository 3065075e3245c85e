"""Doors of all processes, with rates out of their counts. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from bus.messages.details import Endpoint
from bus.messages.vitals import Door, Doors
from metrics.core.views import Heard, Views

WINDOW_NS: Final = 10_000_000_000
MAX_DOORS: Final = 32  # of one process
SILENT_NS: Final = 15_000_000_000


class _Mark(NamedTuple):
    at_ns: int
    received: int
    sent: int
    refused: int


class Endpoints:
    """Rates of doors."""

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], deque[_Mark]] = {}

    def take(self, said: Doors, now_ns: int) -> None:
        """A process counted. Counts that fell are those of another incarnation."""
        for door in said.doors[:MAX_DOORS]:
            mark = _Mark(now_ns, door.received, door.sent, sum(count for _, count in door.refused))
            marks = self._marks.setdefault((said.name, door.door), deque())
            if marks and (mark.received < marks[-1].received or mark.sent < marks[-1].sent):
                marks.clear()
            marks.append(mark)
            while len(marks) > 2 and marks[1].at_ns <= now_ns - WINDOW_NS:
                marks.popleft()

    def expire(self, now_ns: int) -> None:
        """Drop doors that nobody speaks of any more."""
        for key in [key for key, marks in self._marks.items() if marks[-1].at_ns < now_ns - SILENT_NS]:
            del self._marks[key]

    def all(self, views: Views) -> tuple[Endpoint, ...]:
        """By owner and door."""
        return tuple(
            self._endpoint(name, heard, door)
            for name, heard in sorted(views.doors.items())
            for door in sorted(heard.view.doors[:MAX_DOORS], key=lambda door: door.door)
        )

    def _endpoint(self, name: str, heard: Heard[Doors], door: Door) -> Endpoint:
        marks = self._marks.get((name, door.door))
        if not marks or marks[-1].at_ns == marks[0].at_ns:
            return Endpoint(name, heard.at_ns, 0.0, 0.0, 0.0, door)
        first, last = marks[0], marks[-1]
        seconds = (last.at_ns - first.at_ns) / 1e9
        return Endpoint(
            name,
            heard.at_ns,
            (last.received - first.received) / seconds,
            (last.sent - first.sent) / seconds,
            (last.refused - first.refused) / seconds,
            door,
        )
