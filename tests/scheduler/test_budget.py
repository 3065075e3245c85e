"""What a replica may afford, and whether a step hangs: the policies alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.budget import BAR_MOST_NS, BAR_NS, Budget, Severity
from scheduler.core.cost import CostModel
from scheduler.core.watch import Watch

S = 1_000_000_000
HANG_NS = 30.0 * S


def test_failed_steps_in_a_row_are_a_matter_for_a_restart() -> None:
    budget = Budget()
    assert [budget.spend(Severity.TRANSIENT, n * S) for n in range(5)] == [Severity.TRANSIENT] * 4 + [Severity.SEVERE]


def test_failed_steps_are_forgiven_where_others_are_completed_between_them_but_not_without_end() -> None:
    budget, classes = Budget(), []
    for n in range(50):
        classes.append(budget.spend(Severity.TRANSIENT, n * S // 2))
        budget.worked(n * S // 2 + 1)
    assert classes == [Severity.TRANSIENT] * 49 + [Severity.SEVERE]


def test_old_failures_do_not_count() -> None:
    budget = Budget()
    assert {budget.spend(Severity.TRANSIENT, n * 20 * S) for n in range(40)} == {Severity.TRANSIENT}


def test_restarts_in_a_row_are_fatal_and_so_is_the_next_one_after_the_time_out() -> None:
    budget = Budget()
    assert [budget.spend(Severity.SEVERE, n * S) for n in range(16)][-2:] == [Severity.SEVERE, Severity.FATAL]
    assert budget.bar(16 * S) == BAR_NS
    assert budget.spend(Severity.SEVERE, 50 * S) is Severity.FATAL
    assert budget.bar(50 * S) == 2 * BAR_NS
    budget.worked(120 * S)
    assert budget.spend(Severity.SEVERE, 121 * S) is Severity.SEVERE


def test_somebody_who_kills_a_working_replica_again_and_again_does_not_get_it_taken_out() -> None:
    budget = Budget()
    for n in range(1000):
        assert budget.spend(Severity.SEVERE, n * S) is Severity.SEVERE
        budget.worked(n * S + 1)


@given(st.lists(st.sampled_from([Severity.TRANSIENT, Severity.SEVERE]), max_size=300), st.integers(0, 100))
def test_the_class_never_gets_milder_and_memory_is_bounded(errors: list[Severity], gap: int) -> None:
    budget = Budget()
    for n, error in enumerate(errors):
        assert budget.spend(error, n * gap * S // 10) >= error
        assert budget.bar(n) <= BAR_MOST_NS
    assert budget.row <= 101


def trusted(ns: int) -> CostModel:
    cost = CostModel()
    for _ in range(20):
        cost.observe(1, 10.0, ns)
    return cost


def watched(cost: CostModel, *, uses_cpu: bool | None, predicted_ns: float = 0.0, step_s: float = 0.05) -> float:
    """After how many seconds one step is taken for hung."""
    watch, now, cpu = Watch(), 0.0, 0
    while now < 1000:
        watch.look(1, int(step_s * S))
        if watch.waited_ns > S // 2 and uses_cpu is not None:
            cpu += int(step_s * S) // 2 if uses_cpu else 0
            watch.cpu(cpu)
        if watch.hangs(cost, predicted_ns, HANG_NS):
            return now
        now += step_s
    return now


def test_a_worker_that_uses_no_cpu_is_found_in_seconds_and_one_that_computes_has_time() -> None:
    known = trusted(50_000_000)
    assert 3 <= watched(known, uses_cpu=False) < 4
    assert 10 <= watched(known, uses_cpu=True) < 11
    assert 10 <= watched(CostModel(), uses_cpu=False) < 11
    assert 30 <= watched(CostModel(), uses_cpu=True) < 31


def test_a_step_that_is_predicted_to_be_long_may_be() -> None:
    assert 40 <= watched(trusted(50_000_000), uses_cpu=True, predicted_ns=4.0 * S) < 41


def test_where_nothing_is_known_of_the_cpu_only_the_long_limits_hold() -> None:
    assert 10 <= watched(trusted(50_000_000), uses_cpu=None) < 11


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """This scheduler was stopped for an hour: the answer may be waiting in its socket."""
    watch = Watch()
    watch.look(1, 0)
    watch.look(1, 3600 * S)
    assert not watch.hangs(trusted(50_000_000), 0.0, HANG_NS)


def test_another_step_begins_anew() -> None:
    watch, cost = Watch(), trusted(50_000_000)
    for step in range(10):
        for _ in range(100):  # five seconds each
            watch.look(step, S // 20)
            assert not watch.hangs(cost, 0.0, HANG_NS)
