"""What follows from the feed over time: paces, trends, staleness, the worst of what is known of a process."""

from __future__ import annotations

import msgspec
import pytest

from admin_tui.keeping import Service
from admin_tui.world import NO_PAGES, LinkDown, LinkUp, Services, SupervisorGone, World
from bus.messages.control import Fleet, UnitStatus
from bus.messages.details import BusReply, StepsReply
from bus.messages.observe import Finding, PageLoad, Snapshot, Update
from bus.messages.telemetry import Sample

SECOND = 1_000_000_000
WORKER = Sample("worker@m.0.0", "worker", 7, 1, "ready", 0, 0, True, 0.0, 0, ())
EMPTY = Snapshot(0, 0, SECOND, (), (), NO_PAGES, (), 0, ())


def world_of(**changes: object) -> World:
    world = World()
    world.apply(msgspec.structs.replace(EMPTY, **changes), SECOND)
    return world


def sampled(world: World, second: float, **changes: object) -> None:
    sample = msgspec.structs.replace(WORKER, **changes)
    world.apply(Update(1, round(second * SECOND), (sample,), None, None, None, 0, None), SECOND)


def finding(code: str) -> Finding:
    return Finding(code, "warn", WORKER.name, "", 0)


def test_parts_that_did_not_change_stay() -> None:
    world = world_of(processes=(WORKER,), pages=PageLoad(10, 4, 3, 1, 2, 0), findings=(finding("late"),))
    world.apply(Update(1, 2 * SECOND, None, None, None, None, 3, ()), 2 * SECOND)
    assert list(world.processes) == [WORKER.name]
    assert world.pages_used() == pytest.approx(0.4)
    assert (world.findings, world.requests_total, world.seq) == ((), 3, 1)


def test_paces_are_taken_over_time_within_one_incarnation() -> None:
    world = World()
    sampled(world, 1, cpu_s=10.0, progress=100)
    assert world.pace(WORKER.name) == (0.0, 0.0)
    sampled(world, 3, cpu_s=11.0, progress=180)
    assert world.pace(WORKER.name) == (0.5, 40.0)
    world.apply(Update(2, 9 * SECOND, None, None, None, None, 0, None), SECOND)
    assert world.pace(WORKER.name) == (0.5, 40.0)
    sampled(world, 10, epoch=2, cpu_s=0.1, progress=1)
    assert world.pace(WORKER.name) == (0.0, 0.0)


def test_trends_are_means_of_fixed_columns_of_time() -> None:
    world = World()
    for second in range(1, 121):
        pages = PageLoad(100, 100 - (second > 60) * 50, 0, 0, 0, 0)
        world.apply(Update(second, second * SECOND, None, None, pages, None, 0, None), SECOND)
    trend = world.trend("pages", 12)
    assert trend[:5] == [0.0] * 5
    assert trend[7:] == [0.5] * 5
    assert trend == sorted(trend)
    assert len(world.trend("pages", 77)) == 77


def test_what_is_shown_is_stale_when_the_feed_stops_or_the_link_is_down() -> None:
    world = World()
    assert world.stale(SECOND)
    world = world_of()
    assert not world.stale(2 * SECOND)
    assert world.stale(4 * SECOND)
    world.apply(LinkDown("died"), 2 * SECOND)
    assert world.stale(2 * SECOND)
    world.apply(LinkUp(), 2 * SECOND)
    assert not world.stale(2 * SECOND)


def test_the_condition_of_a_process_is_the_worst_that_is_known() -> None:
    world = world_of(processes=(WORKER,))
    assert world.condition(WORKER.name) == "ready"
    unit = UnitStatus(WORKER.name, 0, "failed", 3, 1.0, "exit 70")
    world.apply(Fleet(0, (unit, UnitStatus("kv@host", 0, "starting", 0, 0.0)), ""), SECOND)
    assert world.condition(WORKER.name) == "dead"
    assert world.condition("kv@host") == "warming"
    assert world.names() == ["kv@host", WORKER.name]
    world.apply(SupervisorGone(), SECOND)
    assert world.condition(WORKER.name) == "ready"
    assert world_of(processes=(WORKER,), findings=(finding("stalled"),)).condition(WORKER.name) == "late"
    assert world_of(processes=(WORKER,), findings=(finding("gone"),)).condition(WORKER.name) == "dead"


def test_details_are_kept_by_question_with_their_age() -> None:
    world = World()
    assert (world.details.steps, world.details.age_s("steps", 9)) == (None, -1.0)
    world.apply(StepsReply(1, 5, ()), 2_000_000_000)
    world.apply(BusReply(1, 5, ()), 3_000_000_000)
    world.apply(StepsReply(2, 6, ()), 4_000_000_000)
    assert world.details.steps == StepsReply(2, 6, ())
    assert (world.details.age_s("steps", 5_500_000_000), world.details.age_s("bus", 5_500_000_000)) == (1.5, 2.5)
    assert not world.details.complete
    assert world.heard_ns == 0  # an answer is not the feed


def test_where_systemd_keeps_the_processes_its_units_say_who_should_be_there() -> None:
    world = world_of(processes=(WORKER,))
    worker = Service(WORKER.name, "w.service", "ready", "active (running)", 7, 3, 9.0, last_stop="exit code 70")
    kv = Service("kv@host", "k.service", "failed", "failed (failed)", 0, 8, 0.0, last_stop="killed by SIGSEGV")
    world.apply(SupervisorGone(), SECOND)
    world.apply(Services((worker, kv)), SECOND)
    assert world.names() == ["kv@host", WORKER.name]
    assert (world.condition("kv@host"), world.condition(WORKER.name)) == ("dead", "ready")
    assert (world.units[WORKER.name].restarts, world.units["kv@host"].last_exit) == (3, "killed by SIGSEGV")
    world.apply(SupervisorGone(), SECOND)  # said again and again while there is none
    assert world.names() == ["kv@host", WORKER.name]
    world.apply(Fleet(1, (UnitStatus(WORKER.name, 7, "ready", 0, 1.5),), "x.toml"), SECOND)
    world.apply(Services(()), SECOND)  # a supervisor is there: systemd has nothing to say
    assert world.units[WORKER.name].restarts == 0
    assert not world.services
    world.apply(SupervisorGone(), SECOND)
    assert not world.units
