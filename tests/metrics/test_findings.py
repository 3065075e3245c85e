"""Findings: raised when a condition holds, cleared when it stays away, one per cause however it flickers."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bus.messages.observe import ModelLoad, PageLoad
from bus.messages.telemetry import Sample
from metrics.core.findings import Alarms, Condition
from metrics.core.fleet import GONE_NS, SECOND, Fleet
from metrics.core.rules.catalogue import ALARMS
from metrics.core.rules.models import ModelWatch
from metrics.core.rules.pages import PageTroubles, page_conditions
from metrics.core.rules.processes import process_conditions

TICK = SECOND // 2
BAD = Condition("late", "warn", "worker@m.0.0", "text", "advice")
RAISE_NS, CLEAR_NS = ALARMS["late"].raise_ns, ALARMS["late"].clear_ns
NONE = PageTroubles()
IDLE = ModelLoad("m", 1, 1, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1.0, 0, 0)


def load(**changes: object) -> ModelLoad:
    return msgspec.structs.replace(IDLE, **changes)


def codes(conditions: object) -> list[str]:
    return [condition.code for condition in conditions]  # type: ignore[attr-defined]


def test_a_condition_is_raised_when_it_held_and_says_since_when() -> None:
    alarms = Alarms()
    assert alarms.step(iter([BAD]), 0) == ()
    (finding,) = alarms.step(iter([BAD]), RAISE_NS)
    assert (finding.code, finding.since_ns) == ("late", 0)


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_a_finding_starts_and_ends_only_by_hysteresis(present: list[bool]) -> None:
    """Up only after the condition was seen over RAISE_NS, down only CLEAR_NS after it was last seen."""
    alarms, was_up, last_seen = Alarms(), False, -10 * CLEAR_NS
    for tick, there in enumerate(present):
        now = tick * TICK
        last_seen = now if there else last_seen
        up = bool(alarms.step(iter([BAD] if there else []), now))
        if up and not was_up:
            assert there
        if was_up and not up:
            assert now - last_seen >= CLEAR_NS
        was_up = up


def test_a_blip_is_no_finding() -> None:
    alarms = Alarms()
    alarms.step(iter([BAD]), 0)
    alarms.step(iter([]), 2 * TICK)
    assert alarms.step(iter([BAD]), RAISE_NS + TICK) == ()


def test_critical_findings_come_first() -> None:
    alarms = Alarms()
    worse = BAD._replace(subject="kv@host", severity="crit")
    for now in (0, RAISE_NS):
        found = alarms.step(iter([BAD, worse]), now)
    assert [finding.severity for finding in found] == ["crit", "warn"]


def test_processes_are_late_then_gone_and_stalled_only_when_busy() -> None:
    fleet = Fleet()
    quiet = Sample("kv@host", "kv", 1, 1, "ready", 0, 0, True, 0.0, 0, ())
    fleet.take(quiet, 0)
    member = fleet.members["kv@host"]
    assert codes(process_conditions("kv@host", member, SECOND)) == []
    assert codes(process_conditions("kv@host", member, 3 * SECOND)) == ["late"]
    fleet.expire(GONE_NS)
    assert codes(process_conditions("kv@host", member, GONE_NS)) == ["gone"]
    fleet.take(quiet, GONE_NS + SECOND)
    (stalled,) = process_conditions("kv@host", member, GONE_NS + SECOND)
    assert stalled.code == "stalled"
    working = msgspec.structs.replace(quiet, name="worker@m.0.0", role="worker")
    fleet.take(working, 0)
    fleet.take(working, GONE_NS)
    assert codes(process_conditions("worker@m.0.0", fleet.members["worker@m.0.0"], GONE_NS)) == []


def test_three_restarts_in_five_minutes_are_a_loop() -> None:
    fleet = Fleet()
    for epoch in range(4):
        fleet.take(Sample("w@x", "worker", 1, epoch, "ready", 0, 0, False, 0.0, 0, ()), epoch * SECOND)
    assert codes(process_conditions("w@x", fleet.members["w@x"], 4 * SECOND)) == ["restart-loop"]
    fleet.take(Sample("w@x", "worker", 1, 3, "ready", 0, 0, False, 0.0, 0, ()), 400 * SECOND)
    assert codes(process_conditions("w@x", fleet.members["w@x"], 400 * SECOND)) == []


def test_a_growing_queue_is_told_from_a_long_one() -> None:
    growing, steady = ModelWatch(), ModelWatch()
    for tick in range(21):
        grew = codes(growing.conditions(load(waiting=tick), tick * TICK))
        stayed = codes(steady.conditions(load(waiting=40), tick * TICK))
    assert grew == ["queue-growing"]
    assert stayed == []


def test_a_drop_of_prefix_hits_is_told_from_few_hits_and_from_no_lookups() -> None:
    dropped, never = ModelWatch(), ModelWatch()
    for tick in range(10):
        codes(dropped.conditions(load(prefix_hit_ratio=0.7), tick * TICK))
        assert codes(never.conditions(load(prefix_hit_ratio=0.05), tick * TICK)) == []
    assert codes(dropped.conditions(load(prefix_hit_ratio=-1.0), 10 * TICK)) == []
    assert codes(dropped.conditions(load(prefix_hit_ratio=0.2), 11 * TICK)) == ["prefix-hits-dropped"]


def test_missing_replicas_and_refusals() -> None:
    assert codes(ModelWatch().conditions(load(replicas_ready=0), 0)) == ["no-replica"]
    assert codes(ModelWatch().conditions(load(replicas=2), 0)) == ["replicas-missing"]
    assert codes(ModelWatch().conditions(load(refused_per_s=0.1), 0)) == ["refusing"]


def test_pages_run_out_when_neither_free_nor_evictable_ones_are_left() -> None:
    assert codes(page_conditions(PageLoad(0, 0, 0, 0, 0, 0), 0.0, NONE)) == []
    assert codes(page_conditions(PageLoad(100, 0, 50, 44, 6, 0), 0.0, NONE)) == []
    assert codes(page_conditions(PageLoad(100, 0, 50, 48, 2, 0, slabs_free=3), 0.0, NONE)) == []
    (low,) = page_conditions(PageLoad(100, 0, 50, 48, 2, 0), 0.0, NONE)
    assert low.severity == "warn"
    (bad,) = page_conditions(PageLoad(100, 0, 50, 48, 2, 0), 1.5, NONE)
    assert bad.severity == "crit"
