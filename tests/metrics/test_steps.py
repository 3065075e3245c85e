"""The last thousand steps: shares that add up, of the time that they took; another incarnation starts over."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from bus.messages.telemetry import Series
from bus.messages.vitals import Knob, SchedulerView, StepBound, StepLine, Steps
from metrics.core.collector import Collector
from metrics.core.series import SeriesStore
from metrics.core.steps import LINES, WINDOW_STEPS, StepLog, StepLogs, bound_shares, model_steps

MS = 1_000_000
SECOND = 1000 * MS


def line(step: int, bound: StepBound = "demand", **changes: int) -> StepLine:
    said: dict[str, int] = {
        "replica": 0, "at_ns": step * 10 * MS, "ran_ns": 8 * MS, "predicted_ns": 0, "waited_ns": 0, "plan_ns": 1,
        "apply_ns": 1, "gather_ns": 2 * MS, "rows": 1, "decodes": 1, "prefill_tokens": 0, "chunk_count": 0,
        "waiting": 0, "starved": 0,
    } | changes  # fmt: skip
    return StepLine(step=step, bound=bound, chunks=(), **said)


def told(*lines: StepLine, total: int | None = None) -> Steps:
    return Steps("scheduler@m", "m", len(lines) if total is None else total, lines)


BOUNDS: st.SearchStrategy[StepBound] = st.sampled_from(get_args(StepBound))


@given(st.lists(st.tuples(BOUNDS, st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50))
def test_shares_add_up_and_go_by_time(steps: list[tuple[StepBound, int, int, int]]) -> None:
    lines = [
        line(n, bound, ran_ns=ran, gather_ns=gather, waited_ns=waited)
        for n, (bound, ran, gather, waited) in enumerate(steps)
    ]
    shares = bound_shares(lines)
    assert sum(share.steps for share in shares) == len(steps)
    assert abs(sum(share.time_share for share in shares) - bool(steps)) < 1e-9
    assert [share.time_share for share in shares] == sorted((share.time_share for share in shares), reverse=True)
    took = {bound: 0 for bound, *_ in steps}
    for bound, ran, gather, waited in steps:
        took[bound] += ran + gather + (waited if bound == "pipeline" else 0)
    for share in shares:
        assert abs(share.time_share - took[share.bound] / sum(took.values())) < 1e-9


def test_a_window_and_what_a_screen_gets_of_it() -> None:
    log, series = StepLog("m"), SeriesStore()
    log.take(told(*(line(n) for n in range(WINDOW_STEPS + 500)), total=WINDOW_STEPS + 500), 7)
    last = WINDOW_STEPS + 499
    steps = model_steps("scheduler@m", log, None, series, last * 10 * MS, 10.0)
    assert (steps.total, steps.window, len(steps.lines)) == (WINDOW_STEPS + 500, WINDOW_STEPS, LINES)
    assert [each.step for each in steps.lines] == list(range(last - LINES + 1, last + 1))
    assert steps.steps_per_s == 100.0  # one in 10 ms, of the last ten seconds
    assert (steps.step_p50_s, steps.decode_rows, steps.error_p50, steps.idle_share) == (0.008, 1.0, -1.0, 0.0)
    assert steps.queues == ()


def test_idle_time_is_what_workers_waited_for_want_of_work() -> None:
    """Not before the first of each replica, and not for plans that were ready."""
    log = StepLog("m")
    waits = (90, 30, 10, 70)
    log.take(
        told(
            *(line(n, waited_ns=wait * MS) for n, wait in enumerate(waits[:2])),
            line(2, "pipeline", waited_ns=waits[2] * MS),
            line(3, waited_ns=waits[3] * MS, replica=1),
        ),
        0,
    )
    steps = model_steps("s", log, None, SeriesStore(), 0, 10.0)
    assert abs(steps.idle_share - 30 / (30 + 4 * 10 + 10)) < 1e-9
    assert steps.bounds[1].bound == "pipeline"
    assert abs(steps.bounds[1].time_share - 20 / 50) < 1e-9


def test_the_cost_models_error_is_the_median_of_what_it_was_off_by() -> None:
    log = StepLog("m")
    log.take(told(*(line(n, predicted_ns=round(8 * MS * (1 + off))) for n, off in enumerate((0.1, -0.2, 0.9)))), 0)
    assert abs(model_steps("s", log, None, SeriesStore(), 0, 10.0).error_p50 - 0.2) < 1e-6


def test_parts_come_from_the_schedulers_histograms() -> None:
    log, series = StepLog("m"), SeriesStore()
    labels = (("model", "m"), ("part", "plan"))
    histogram = Series("headrace_step_phase_seconds", "histogram", labels, 1.0, (0.001, 0.002), (0, 10, 10))
    series.take("scheduler@m", histogram, 5 * SECOND, 0)
    steps = model_steps("s", log, None, series, 6 * SECOND, 10.0)
    assert [part.part for part in steps.parts] == ["plan", "send", "compute", "gather", "apply"]
    assert 0.001 < steps.parts[0].p50_s < steps.parts[0].p95_s < 0.002
    assert steps.parts[1].p95_s == 0.0


def test_another_incarnation_starts_over_and_the_silent_are_forgotten() -> None:
    logs = StepLogs()
    logs.take(told(line(1), line(2), total=700), SECOND)
    logs.take(told(line(3), total=701), 2 * SECOND)
    assert len(logs.logs["scheduler@m"].lines) == 3
    logs.take(told(line(1), total=1), 3 * SECOND)
    assert [each.step for each in logs.logs["scheduler@m"].lines] == [1]
    logs.expire(602 * SECOND)
    assert logs.logs
    logs.expire(604 * SECOND)
    assert not logs.logs


def test_a_scheduler_that_has_nothing_to_do_is_there_with_its_limits() -> None:
    collector = Collector(10, 0)
    knob = Knob("slots", 4, "requests", 4)
    collector.on_view(SchedulerView("scheduler@idle", "idle", 16, (), (knob,), (), ()), 5)
    collector.on_steps(told(line(1)), 7)
    collector.on_view(SchedulerView("scheduler@m", "m", 16, (), (), (), ()), 9)
    found = [
        model_steps(name, log, heard, collector.series, SECOND, 1.0) for name, log, heard in collector.schedulers()
    ]
    assert [(each.model, each.window, each.knobs, each.heard_ns) for each in found] == [
        ("idle", 0, (knob,), 5),
        ("m", 1, (), 9),
    ]
