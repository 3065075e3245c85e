"""Plans are executed once, in order, and a gap is noticed."""

from __future__ import annotations

import pytest
from driving import make_plan

from workers.inbox import Inbox, StepGap


def steps(inbox: Inbox) -> list[int]:
    return [inbox.take().plan.step for _ in range(len(inbox))]


def test_a_worker_that_just_joined_takes_the_first_plan_for_what_it_is() -> None:
    inbox = Inbox()
    assert inbox.put(make_plan(41), 7)
    assert inbox.put(make_plan(42), 9)
    assert inbox.take().arrived_ns == 7
    assert steps(inbox) == [42]


def test_what_came_before_is_dropped() -> None:
    inbox = Inbox()
    inbox.put(make_plan(5), 0)
    inbox.put(make_plan(6), 0)
    assert not inbox.put(make_plan(5), 0)
    assert not inbox.put(make_plan(6), 0)
    assert steps(inbox) == [5, 6]


def test_a_gap_forgets_what_waits_and_begins_afresh() -> None:
    inbox = Inbox()
    inbox.put(make_plan(5), 0)
    with pytest.raises(StepGap, match="step 7 came where 6 was expected"):
        inbox.put(make_plan(7), 0)
    assert not len(inbox)
    assert inbox.put(make_plan(8), 0)


def test_a_reset_says_which_step_is_next() -> None:
    inbox = Inbox()
    inbox.put(make_plan(5), 0)
    inbox.reset(next_step=3)
    assert not inbox.put(make_plan(2), 0)
    assert inbox.put(make_plan(3), 0)
    assert steps(inbox) == [3]
