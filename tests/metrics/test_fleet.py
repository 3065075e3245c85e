"""Who is there, who is late, gone, restarting or stuck."""

from __future__ import annotations

import msgspec

from bus.messages.telemetry import Sample
from metrics.core.fleet import GONE_NS, MAX_PROCESSES, SECOND, Fleet

QUIET = Sample("worker@m.0.0", "worker", 1, 5, "ready", 0, 0, False, 0.0, 0, ())


def sample(**changes: object) -> Sample:
    return msgspec.structs.replace(QUIET, **changes)


def test_a_newer_incarnation_replaces_the_older_and_not_the_other_way_round() -> None:
    fleet = Fleet()
    assert fleet.take(sample(epoch=5), 0) == "first"
    assert fleet.take(sample(epoch=7), SECOND) == "restarted"
    assert fleet.take(sample(epoch=6), 2 * SECOND) == "stale"
    assert [s.epoch for s in fleet.samples()] == [7]
    assert fleet.members["worker@m.0.0"].restarts_within(10 * SECOND, 2 * SECOND) == 1


def test_a_silent_process_is_gone_once_and_comes_back() -> None:
    fleet = Fleet()
    fleet.take(sample(), 0)
    assert fleet.expire(GONE_NS - 1) == ([], [])
    assert fleet.expire(GONE_NS) == (["worker@m.0.0"], [])
    assert fleet.expire(GONE_NS + 1) == ([], [])
    assert fleet.samples() == ()
    fleet.take(sample(epoch=6), GONE_NS + 2)
    assert len(fleet.samples()) == 1


def test_a_process_that_stopped_is_forgotten_soon() -> None:
    fleet = Fleet()
    fleet.take(sample(state="stopped"), 0)
    assert fleet.expire(3 * SECOND)[1] == ["worker@m.0.0"]


def test_only_work_without_progress_is_a_stall() -> None:
    fleet = Fleet()
    fleet.take(sample(busy=True, progress=1), 0)
    fleet.take(sample(busy=True, progress=1), 4 * SECOND)
    member = fleet.members["worker@m.0.0"]
    assert member.stalled_ns(4 * SECOND) == 4 * SECOND
    fleet.take(sample(busy=True, progress=2), 5 * SECOND)
    assert member.stalled_ns(5 * SECOND) == 0
    fleet.take(sample(busy=False, progress=2), 60 * SECOND)
    assert member.stalled_ns(90 * SECOND) == 0


def test_work_that_begins_after_a_long_rest_is_not_a_stall() -> None:
    fleet = Fleet()
    fleet.take(sample(busy=False, progress=1), 60 * SECOND)
    fleet.take(sample(busy=True, progress=1), 61 * SECOND)
    assert fleet.members["worker@m.0.0"].stalled_ns(61 * SECOND) == SECOND


def test_the_number_of_processes_is_bounded() -> None:
    fleet = Fleet()
    for number in range(MAX_PROCESSES):
        fleet.take(sample(name=f"client@{number}"), 0)
    assert fleet.take(sample(name="client@x"), 0) == "too_many"
    assert len(fleet.members) == MAX_PROCESSES
