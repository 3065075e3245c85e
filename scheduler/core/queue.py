"""Requests that wait. Bounded by those who call; no operation walks them.

Those that were sent back come first. Then tenants take turns by what they have been served (`fairness`), and within
one, requests go by priority with ageing. Batch waits until nothing else does. Ageing is linear and equal for all, so
the order of two requests of a tenant never changes while they wait and a heap on a fixed key is enough (`Request.key`).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from scheduler.core.fairness import Client, Counters
from scheduler.core.request import Phase, Request, Standing

_SLACK: Final = 64  # entries that are gone and may stay in a heap


class _Lane:
    """Those of one tenant, or those that were sent back. Removal is lazy: a ticket that is not current is gone.

    Attributes:
        live: how many wait in it.
    """

    __slots__ = ("_heap", "live", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.live = 0
        self._heap: list[tuple[int, int, int, int, Request]] = []

    def push(self, request: Request, rank: int = 0) -> None:
        heappush(self._heap, (rank, request.key, request.id, request.ticket, request))
        self.live += 1

    def lose(self) -> None:
        """One whose ticket has just changed."""
        self.live -= 1
        if len(self._heap) > 2 * self.live + _SLACK:
            self._heap = [entry for entry in self._heap if entry[3] == entry[4].ticket]
            heapify(self._heap)

    def first(self, count: int) -> list[Request]:
        """The first `count`, in order. They stay."""
        taken: list[tuple[int, int, int, int, Request]] = []
        while self._heap and len(taken) < count:
            entry = heappop(self._heap)
            if entry[3] == entry[4].ticket:
                taken.append(entry)
        for entry in taken:
            heappush(self._heap, entry)
        return [entry[4] for entry in taken]


class _Lanes(dict[int, _Lane]):
    """Those of one class that have anything waiting, by number.

    Attributes:
        level: where the last of them had come to when it had nothing waiting any more.
    """

    level = 0.0


class WaitingQueue:
    """The waiting and the parked. Counts are kept, never taken by walking.

    Attributes:
        requests, tokens: how much waits.
        batch: how many requests of it are batch.
        counters: what tenants have been served.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self.requests = 0
        self.tokens = 0
        self.batch = 0
        self._sent_back = _Lane(-1)
        self._interactive, self._batch = _Lanes(), _Lanes()
        self._lane_of: dict[int, _Lane] = {}  # of those that are in one, by request

    def __len__(self) -> int:
        return self.requests

    def enter(self, request: Request) -> None:
        """A request was accepted."""
        client = Client(request.submit.tenant, request.submit.batch)
        request.client = self.counters.enter(client, request.submit.weight)

    def leave(self, request: Request) -> None:
        """A request has ended."""
        self.counters.leave(request.client)

    def push(self, request: Request) -> None:
        """A request begins to wait."""
        self.requests += 1
        self.tokens += request.known
        self.batch += request.submit.batch
        self._into_lane(request)

    def park(self, request: Request) -> None:
        """It waits for something of its own and stands in nobody's way."""
        self._out_of_lane(request)
        request.phase = Phase.PARKED

    def unpark(self, request: Request) -> None:
        """What it waited for has come; its place is the one it would have had."""
        self._into_lane(request)

    def remove(self, request: Request) -> None:
        """It waits no longer, wherever it was."""
        self.requests -= 1
        self.tokens -= request.known
        self.batch -= request.submit.batch
        if request.phase is Phase.WAITING:
            self._out_of_lane(request)

    @property
    def urgent(self) -> int:
        """How many stand in front of all batch."""
        return sum(lane.live for lane in self._interactive.values())

    def head(self) -> Request | None:
        """The first that waits."""
        return next(iter(self.first(1)), None)

    def first(self, count: int) -> list[Request]:
        """The first `count` that wait, in order. They stay. Batch is not beside anything else."""
        taken = self._sent_back.first(count)
        if len(taken) < count and (lanes := self._interactive or self._batch):
            taken += self._in_turn(list(lanes.values()), count - len(taken))
        return taken

    def _in_turn(self, lanes: list[_Lane], count: int) -> list[Request]:
        """As they would go if each were admitted and charged before the next is chosen."""
        if len(lanes) == 1:
            return lanes[0].first(count)
        served = self.counters.served
        turns = [(float(served[lane.number]), lane.number, at) for at, lane in enumerate(lanes)]
        heapify(turns)
        waiting: dict[int, list[Request]] = {}
        taken: list[Request] = []
        while turns and len(taken) < count:
            virtual, number, at = heappop(turns)
            if at not in waiting:
                waiting[at] = lanes[at].first(count - len(taken))[::-1]
            request = waiting[at].pop()
            taken.append(request)
            if waiting[at]:
                heappush(turns, (virtual + self.counters.virtual(number, request.known), number, at))
        return taken

    def _into_lane(self, request: Request) -> None:
        request.phase = Phase.WAITING
        request.ticket += 1
        # Those on trial first: slots are kept for them, for which nobody behind them may have to wait.
        if request.standing is Standing.ON_TRIAL or request.front:
            lane, rank = self._sent_back, int(request.standing is not Standing.ON_TRIAL)
        else:
            lanes, number, rank = self._lanes(request), request.client, 0
            if (known := lanes.get(number)) is None:
                served = self.counters.served
                self.counters.lift(number, min((float(served[other]) for other in lanes), default=lanes.level))
                known = lanes[number] = _Lane(number)
            lane = known
        lane.push(request, rank)
        self._lane_of[request.id] = lane

    def _out_of_lane(self, request: Request) -> None:
        request.ticket += 1
        lane = self._lane_of.pop(request.id)
        lane.lose()
        if not lane.live and lane is not self._sent_back:
            lanes = self._lanes(request)
            lanes.level = float(self.counters.served[lane.number])
            del lanes[lane.number]

    def _lanes(self, request: Request) -> _Lanes:
        return self._batch if request.submit.batch else self._interactive
