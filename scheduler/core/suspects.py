"""Which requests are suspected of taking their worker down, and which of them is tried next. No request is moved here.

A failure whose cause is not named strikes everyone who was in the step. Whoever is struck twice without having got on
in between is *detained* and tried, by bisection:

    struck twice ──split──► groups ──one at a time──► trial ──draws a token──► cleared
                              ▲                         │ its step fails
                              └────── split ◄───────────┤ several were in it
                                                        └ alone, and once more: the cause

The replica of a trial goes on with everybody else, but never in one step with those on trial, and with one step in
flight: a failure belongs to one side. Groups are tried breadth first, so the innocent half of a batch is free after
one trial, and shows that the replica works. Without that, alone is not proof: a replica that fails whatever it is given
must not condemn one request after another. Such verdicts wait until a step has been completed there, until there is
nobody else, or until the replica is taken out and they are tried elsewhere.

One of n in a batch is found after log2(n) + 3 failures or so, and 4 where n is 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from scheduler.core.request import Request, Standing

TRIED_AFTER: Final = 2  # strikes
GUILTY_AFTER: Final = 3
ALONE: Final = 2  # times in a row: once may be somebody who kills workers at random


class Unproven(NamedTuple):
    """It failed alone, on a replica that has not been seen to work since it was struck first."""

    replica: int
    why: str


@dataclass(slots=True)
class Trial:
    """The group that is tried now.

    Attributes:
        dock: the replica where.
        ready_ns: when the dock was last seen ready; or else when the trial began.
    """

    dock: int
    members: set[Request]
    ready_ns: int


class Accused(NamedTuple):
    """What follows from a failure: who waits for a trial, and the cause, if that is known."""

    detained: list[Request]
    cause: Request | None


@dataclass(slots=True)
class Suspects:
    """All that is known about causes that are not known yet.

    Attributes:
        groups: they wait for their trial.
        dock: where suspects failed last. Trials are held there, so that no other replica is taken down by them.
    """

    groups: deque[list[Request]] = field(default_factory=deque)
    trial: Trial | None = None
    unproven: dict[Request, Unproven] = field(default_factory=dict)
    dock: int = -1

    @property
    def any(self) -> bool:
        """Whether anybody is detained or on trial."""
        return bool(self.groups or self.trial or self.unproven)

    @property
    def seats(self) -> int:
        """Slots that the dock keeps for those who wait for their trial, or for their turn in it."""
        waiting = sum(map(len, self.groups))
        if self.trial is not None:
            waiting += sum(1 for request in self.trial.members if request.slot < 0)
        return waiting

    def accuse(self, batch: list[Request]) -> Accused:
        """A step with these requests failed, nobody is named, and they have been struck for it."""
        if self.trial is None or not batch or not self.trial.members.issuperset(batch):
            twice = [request for request in batch if request.strikes >= TRIED_AFTER]
            self.groups.extend(_halves(twice))
            return Accused(twice, None)
        self._leave_trial(batch)
        if len(batch) == 1 and batch[0].strikes >= GUILTY_AFTER:
            batch[0].alone += 1
            if batch[0].alone >= ALONE:
                return Accused([], batch[0])
        self.groups.extend(_halves(batch))
        return Accused(batch, None)

    def clear(self, request: Request) -> None:
        """It drew a token, or it is gone."""
        request.strikes = request.alone = 0
        request.standing = Standing.CLEAR
        self.unproven.pop(request, None)
        self._leave_trial([request])

    def next_group(self) -> list[Request]:
        """Those who are tried next, taken off the list; none where nobody waits."""
        while self.groups:
            if group := [request for request in self.groups.popleft() if request.standing is Standing.DETAINED]:
                return group
        return []

    def acquit(self, replica: int) -> None:
        """A replica is taken out: it was the cause, as far as is known. They are tried again, each alone, elsewhere."""
        for request, unproven in list(self.unproven.items()):
            if unproven.replica == replica:
                del self.unproven[request]
                self.groups.append([request])

    def _leave_trial(self, requests: Iterable[Request]) -> None:
        if self.trial is not None:
            self.trial.members.difference_update(requests)
            if not self.trial.members:
                self.trial = None


def strike(request: Request, reached: int, now: int) -> None:
    """It was in a step that failed. Strikes count in a row; a row ends when it has got further than at the last one.

    Args:
        reached: how many of its tokens were computed before the step.
    """
    got_on = reached > max(request.struck_at, request.found)
    if got_on or not request.strikes:
        request.strikes, request.alone, request.struck_ns = 1, 0, now
    else:
        request.strikes += 1
    request.struck_at = max(request.struck_at, reached)


def _halves(requests: list[Request]) -> Iterable[list[Request]]:
    middle = (len(requests) + 1) // 2
    return [half for half in (requests[:middle], requests[middle:]) if half]
