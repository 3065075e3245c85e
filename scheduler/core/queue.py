"""Requests that wait, in order of priority with ageing. Bounded by those who call; every operation is flat in length.

Ageing is linear and equal for all, so the order of two requests never changes while they wait and a heap on a fixed
key is enough (`Request.key`). Removal is lazy: a ticket that is not current marks an entry of the heap as gone.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from scheduler.core.request import Phase, Request, Standing


class WaitingQueue:
    """The waiting and the parked. Counts are kept, never taken by walking."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int, Request]] = []
        self._gone = 0
        self.requests = 0
        self.tokens = 0

    def __len__(self) -> int:
        return self.requests

    def push(self, request: Request) -> None:
        """A request begins to wait."""
        self.requests += 1
        self.tokens += request.known
        self._enter(request)

    def park(self, request: Request) -> None:
        """It waits for something of its own and stands in nobody's way."""
        self._leave_heap(request)
        request.phase = Phase.PARKED

    def unpark(self, request: Request) -> None:
        """What it waited for has come; its place is the one it would have had."""
        self._enter(request)

    def remove(self, request: Request) -> None:
        """It waits no longer, wherever it was."""
        self.requests -= 1
        self.tokens -= request.known
        if request.phase is Phase.WAITING:
            self._leave_heap(request)

    def head(self) -> Request | None:
        """The first that waits."""
        while self._heap and self._heap[0][3] != self._heap[0][4].ticket:
            heappop(self._heap)
            self._gone -= 1
        return self._heap[0][4] if self._heap else None

    def first(self, count: int) -> list[Request]:
        """The first `count` that wait, in order. They stay."""
        taken: list[tuple[int, int, int, int, Request]] = []
        while self._heap and len(taken) < count:
            entry = heappop(self._heap)
            if entry[3] == entry[4].ticket:
                taken.append(entry)
            else:
                self._gone -= 1
        for entry in taken:
            heappush(self._heap, entry)
        return [entry[4] for entry in taken]

    def _enter(self, request: Request) -> None:
        request.phase = Phase.WAITING
        request.ticket += 1
        heappush(self._heap, (_rank(request), request.key, request.id, request.ticket, request))

    def _leave_heap(self, request: Request) -> None:
        request.ticket += 1
        self._gone += 1
        if self._gone > 64 and self._gone * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[3] == entry[4].ticket]
            heapify(self._heap)
            self._gone = 0


def _rank(request: Request) -> int:
    """Those on trial first: slots are kept for them, for which nobody behind them may have to wait."""
    if request.standing is Standing.ON_TRIAL:
        return 0
    return 1 if request.front else 2
