"""The circuit of an upstream, against a model of it: whatever calls begin and end in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingress.router.breaker import LONGEST_WAIT_NS, Breaker, Settings

SETTINGS = Settings(failures=3, failures_of=5, open_ns=1_000, open_most_ns=4_000)


class Circuit(RuleBasedStateMachine):
    """Calls under way, each with the era that it began in and whether it was let through by a half open circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SETTINGS)
        self.now = 1
        self.calls: list[tuple[int, bool]] = []
        self.trials = 0  # under way, of the present opening
        self.openings: list[int] = []  # how long each was, since it was last closed

    @rule(ns=st.integers(1, 3_000))
    def time(self, ns: int) -> None:
        self.now += ns

    @precondition(lambda self: not self.breaker.retry_ns(self.now))
    @rule()
    def begin(self) -> None:
        trial = self.breaker.state(self.now) == "half_open"
        if trial:
            assert self.trials == 0, "one trial at a time"
            self.trials += 1
        self.calls.append((self.breaker.begin(self.now), trial))

    def _took(self, data: st.DataObject) -> tuple[int, bool]:
        return self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def good(self, data: st.DataObject) -> None:
        before = self.breaker.state(self.now)
        era, trial = self._took(data)
        self.breaker.good(era)
        after = self.breaker.state(self.now)
        if trial and before == "half_open" and self.trials:
            assert after == "closed"
            self.openings.clear()
            self.trials = 0
        else:
            assert after == before, "a call of another era changes nothing"

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def bad(self, data: st.DataObject) -> None:
        before = self.breaker.state(self.now)
        era, trial = self._took(data)
        self.breaker.bad(era, self.now)
        after = self.breaker.state(self.now)
        if trial and before == "half_open" and self.trials:
            assert after == "open"
        elif before != "closed":
            assert after == before
        if after == "open" and before != "open":
            length = self.breaker.retry_ns(self.now)
            expected = min(SETTINGS.open_ns << len(self.openings), SETTINGS.open_most_ns)
            assert length >= expected  # more only where it asked to be left alone
            self.openings.append(length)
            self.trials = 0

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def neither(self, data: st.DataObject) -> None:
        before = self.breaker.state(self.now)
        era, trial = self._took(data)
        self.breaker.neither(era)
        assert self.breaker.state(self.now) == before
        if trial and before == "half_open":
            self.trials = 0

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), ns=st.integers(0, 5_000))
    def told_to_wait(self, data: st.DataObject, ns: int) -> None:
        before = self.breaker.state(self.now)
        era, trial = self._took(data)
        self.breaker.wait(era, self.now, ns)
        assert self.breaker.state(self.now) == before
        assert self.breaker.retry_ns(self.now) >= ns
        if trial and before == "half_open":
            self.trials = 0

    @invariant()
    def open_is_shut(self) -> None:
        if self.breaker.state(self.now) == "open":
            assert self.breaker.retry_ns(self.now) > 0
        if self.trials and self.breaker.state(self.now) == "half_open":
            assert self.breaker.retry_ns(self.now) > 0


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_so_many_of_the_last_open_it_and_fewer_do_not() -> None:
    breaker = Breaker(SETTINGS)
    for good in (False, False, True, True, True, False, True, False):
        era = breaker.begin(1)
        (breaker.good(era) if good else breaker.bad(era, 1))
        assert breaker.state(1) == "closed"
    breaker.bad(breaker.begin(1), 1)
    assert breaker.state(1) == "open"
    assert breaker.retry_ns(1) == 1_000


def test_it_does_not_wait_forever_because_an_upstream_says_so() -> None:
    breaker = Breaker(SETTINGS)
    breaker.wait(breaker.begin(1), 1, 10**18)
    assert breaker.retry_ns(1) == LONGEST_WAIT_NS
