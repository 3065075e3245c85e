"""Plans that wait to be executed, in order. Pure.

Steps are numbered without gaps within a scheduler's incarnation. What was executed already is dropped; a gap means that
a difference was lost on the way, so that the slots no longer are what the scheduler thinks.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from bus.messages.steps import StepPlan


class Waiting(NamedTuple):
    """A plan, and when it came (CLOCK_MONOTONIC)."""

    plan: StepPlan
    arrived_ns: int


class StepGap(ValueError):
    """A plan came before its predecessor. The next one may be any again."""


class Inbox:
    """The queue of one scheduler incarnation."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._next: int | None = None  # None: a worker that just joined takes the first plan for what it is

    def __len__(self) -> int:
        return len(self._waiting)

    def reset(self, next_step: int | None = None) -> None:
        """Forget the waiting plans; the next one is `next_step`, or any."""
        self._waiting.clear()
        self._next = next_step

    def put(self, plan: StepPlan, now_ns: int) -> bool:
        """Take a plan. False where it is a repetition.

        Raises:
            StepGap: plans before it are missing.
        """
        if self._next is not None and plan.step < self._next:
            return False
        if self._next is not None and plan.step > self._next:
            expected = self._next
            self.reset()
            raise StepGap(f"step {plan.step} came where {expected} was expected")
        self._next = plan.step + 1
        self._waiting.append(Waiting(plan, now_ns))
        return True

    @property
    def first(self) -> StepPlan:
        """The oldest plan, which stays.

        Raises:
            IndexError: there is none.
        """
        return self._waiting[0].plan

    def take(self) -> Waiting:
        """The oldest plan.

        Raises:
            IndexError: there is none.
        """
        return self._waiting.popleft()
