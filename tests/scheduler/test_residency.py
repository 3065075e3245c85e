"""Adapters of a replica: bounded, none that is used goes, and whoever waits gets in."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.core.residency import AGAIN_NS, AWAITED_NS, Residency

NUMBERS = st.integers(1, 4)
ANY = st.integers(0, 100)
ROOM = 2


class Machine(RuleBasedStateMachine):
    """A replica, and a worker that has what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Residency(ROOM)
        self.worker: set[int] = set()
        self.running: list[int] = []
        self.step, self.completed, self.now = 0, 0, 0
        self.until: Counter[int] = Counter()

    def told(self) -> None:
        if self.held.changed:
            self.held.changed = False
            gone = self.worker - set(self.held.numbers)
            for number in gone:
                assert number not in self.running, "one that is used was taken away"
                assert self.until[number] <= self.completed, "a step that was sent still uses it"
            self.worker &= set(self.held.numbers)

    @rule(number=NUMBERS)
    def fetch(self, number: int) -> None:
        self.held.fetch(number, self.completed, self.now)
        self.told()

    @rule(at=ANY, awaited=st.booleans())
    def arrives(self, at: int, awaited: bool) -> None:
        if coming := [number for number in self.held.numbers if self.held.comes(number)]:
            number = coming[at % len(coming)]
            assert self.held.loaded(number, self.now, awaited=awaited)
            self.worker.add(number)

    @rule(number=NUMBERS)
    def fails(self, number: int) -> None:
        if self.held.failed(number, self.now):
            assert not self.held.fetch(number, self.completed, self.now), "tried again at once"
            self.now += AGAIN_NS
        self.told()

    @rule(at=ANY)
    def enters(self, at: int) -> None:
        if ready := [number for number in self.held.numbers if self.held.has(number)]:
            number = ready[at % len(ready)]
            assert number in self.worker
            self.held.enter(number)
            self.running.append(number)
            self.step += 1  # a plan with its slot is sent

    @rule(at=ANY)
    def leaves(self, at: int) -> None:
        if self.running:
            number = self.running.pop(at % len(self.running))
            self.held.leave(number, self.step)
            self.until[number] = self.step

    @rule()
    def time_passes(self) -> None:
        self.now += AWAITED_NS

    @rule()
    def completes(self) -> None:
        self.completed = self.step
        self.held.sweep(self.completed)
        self.told()

    @rule(number=NUMBERS)
    def waits_long(self, number: int) -> None:
        self.held.make_one_leave(number, self.now)

    @rule(number=NUMBERS)
    def is_unloaded(self, number: int) -> None:
        self.held.forget(number, self.completed)
        self.told()

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.held.numbers) <= ROOM
        assert len(set(self.held.numbers)) == len(self.held.numbers)
        assert self.worker <= set(self.held.numbers)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def filled(*numbers: int) -> Residency:
    held = Residency(len(numbers))
    for number in numbers:
        assert held.fetch(number, 0, 0)
        assert held.loaded(number, 0, awaited=False)
    return held


def test_the_least_recently_used_goes_first() -> None:
    held = filled(1, 2, 3)
    held.enter(1)
    held.leave(1, 0)
    assert held.fetch(4, 0, 0)
    assert set(held.numbers) == {1, 3, 4}
    assert held.evicted == 1


def test_where_all_are_used_one_leaves_with_its_last_request() -> None:
    held = filled(1, 2)
    for number in (1, 1, 2):
        held.enter(number)
    assert not held.fetch(3, 0, 0)
    held.make_one_leave(3, 0)
    assert (held.has(1), held.has(2)) == (True, False), "the one with the fewest users"
    held.make_one_leave(3, 0)
    assert held.has(1), "one at a time"
    held.leave(2, 7)
    held.sweep(6)
    assert not held.fetch(3, 6, 0), "step 7 may still use it"
    held.sweep(7)
    assert held.fetch(3, 7, 0)
    assert held.numbers == (1, 3)


@given(st.lists(NUMBERS, max_size=30))
def test_none_is_kept_out_for_ever(wanted: list[int]) -> None:
    """Whatever runs, who waits and has one leave gets in when what leaves has no users any more."""
    held = filled(7, 8, 9)
    running = [7, 8, 9]
    for number in running:
        held.enter(number)
    for number in wanted:
        held.make_one_leave(number, 0)
        for other in [other for other in running if not held.has(other)]:
            running.remove(other)
            held.leave(other, 0)
        held.sweep(0)
        assert held.fetch(number, 0, 0)
        if held.loaded(number, 0, awaited=True):
            held.enter(number)
            running.append(number)


def test_one_that_has_come_for_a_request_is_kept_for_it() -> None:
    """Two requests that wait for one place do not take it from each other."""
    held = Residency(1)
    assert held.fetch(1, 0, 0)
    assert held.loaded(1, 0, awaited=True)
    assert not held.fetch(2, 0, AWAITED_NS - 1)
    held.make_one_leave(2, AWAITED_NS - 1)
    assert held.has(1)
    assert held.fetch(2, 0, AWAITED_NS), "nobody came"
