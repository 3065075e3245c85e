"""The live feed on a real metrics process and a scripted supervisor: snapshot, updates, a restart, orders."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from admin_tui.actions import Order
from admin_tui.details import DETAILS
from admin_tui.feed import LiveFeed
from admin_tui.loop import GuestLoop
from admin_tui.world import LinkDown, World
from bus.identity import Visitor
from bus.messages.control import Drain, Fleet, GetFleet, Ok, Rejected, Restart, ToProcess, UnitStatus
from bus.messages.observe import Snapshot, Update
from bus.names import CONTROL_DOOR
from bus.server import Peer, Server

pytestmark = pytest.mark.system

RUN_METRICS = """
import sys
from bus.config import Config
from metrics.main import main
sys.exit(main("metrics@host", Config(), None))
"""


class ScriptedSupervisor(Visitor):
    """Answers for one unit and remembers what it was told."""

    def __init__(self, run: Path) -> None:
        super().__init__("supervisor", GuestLoop(), run)
        self.name = "supervisor@host"
        self.told: list[Any] = []
        self.server: Server[ToProcess] = Server(
            self, CONTROL_DOOR, "control", ToProcess, roles=("tui",), on_message=self.on_message
        )

    def on_message(self, peer: Peer, message: ToProcess) -> None:
        if isinstance(message, GetFleet):
            unit = UnitStatus("metrics@host", 1, "ready", 4, 9.0, "exit 70")
            self.server.send(peer, Fleet(message.rid, (unit,), "x.toml"))
            return
        self.told.append(message)
        answer: Ok | Rejected = Ok(message.rid, "restarting") if isinstance(message, Restart) else Rejected(1, "no")
        if isinstance(message, Drain):
            answer = Rejected(message.rid, "it is draining\x1b[31m already")
        self.server.send(peer, answer)

    def close(self) -> None:
        self.server.close()


class Host:
    """A run directory with a metrics process in it, and a screen's feed."""

    def __init__(self, run: Path) -> None:
        self.run, self.world, self.events = run, World(), list[Any]()
        self.start_metrics()
        self.feed = LiveFeed(GuestLoop(), run)
        self.feed.start(self.on_event)

    def start_metrics(self) -> None:
        environment = {**os.environ, "HEADRACE_RUN": str(self.run)}
        self.metrics = subprocess.Popen([sys.executable, "-c", RUN_METRICS], env=environment)

    def on_event(self, event: Any) -> None:
        self.events.append(event)
        self.world.apply(event, self.feed.now_ns())

    async def until(self, true: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.02)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    run = Path(tempfile.mkdtemp(prefix="hr-t-", dir="/tmp"))
    host = Host(run)
    try:
        yield host
    finally:
        host.feed.close()
        host.metrics.kill()
        host.metrics.wait()
        shutil.rmtree(run, ignore_errors=True)


async def test_a_snapshot_then_updates_without_a_gap_also_over_a_crash_of_the_metrics_process(host: Host) -> None:
    await host.until(lambda: "metrics@host" in host.world.processes)
    first_epoch = host.world.processes["metrics@host"].epoch
    assert not host.world.stale(host.feed.now_ns())
    host.metrics.kill()
    host.metrics.wait()
    await host.until(lambda: host.world.down)
    host.start_metrics()
    await host.until(lambda: not host.world.down)

    def is_the_new_one() -> bool:
        known = host.world.processes.get("metrics@host")
        return known is not None and known.epoch > first_epoch

    await host.until(is_the_new_one)
    seq = None
    for event in host.events:
        if isinstance(event, Snapshot | LinkDown):
            seq = getattr(event, "seq", None)
        elif isinstance(event, Update):
            assert event.seq == seq + 1  # type: ignore[operator]
            seq = event.seq


async def test_the_fleet_comes_from_the_supervisor_and_leaves_with_it(host: Host) -> None:
    supervisor = ScriptedSupervisor(host.run)
    await host.until(lambda: host.world.supervised)
    assert host.world.units["metrics@host"].restarts == 4
    supervisor.close()
    await host.until(lambda: not host.world.supervised)
    assert host.world.units == {}


async def test_orders_reach_the_supervisor_and_its_answer_comes_back_clean(host: Host) -> None:
    supervisor = ScriptedSupervisor(host.run)
    answers: list[tuple[bool, str]] = []
    host.feed.give(Order("restart", "kv@host"), lambda *a: answers.append(a), supervised=True)
    host.feed.give(Order("drain", "kv@host"), lambda *a: answers.append(a), supervised=True)
    await host.until(lambda: len(answers) == 2)
    assert sorted(answers) == [(False, "it is draining[31m already"), (True, "restarting")]
    assert {(type(told), told.name) for told in supervisor.told} == {(Restart, "kv@host"), (Drain, "kv@host")}
    supervisor.close()


async def test_without_a_supervisor_a_process_obeys_at_its_own_door(host: Host) -> None:
    answers: list[tuple[bool, str]] = []
    await host.until(lambda: "metrics@host" in host.world.processes)
    host.feed.give(Order("drain", "metrics@host"), lambda *a: answers.append(a), supervised=False)
    await host.until(lambda: answers)
    assert answers == [(True, "draining")]
    await host.until(lambda: host.world.condition("metrics@host") == "draining")


async def test_a_door_that_is_not_there_is_said_to_be_unreachable(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin_tui.courier.ANSWER_S", 0.3)
    answers: list[tuple[bool, str]] = []
    host.feed.give(Order("cancel", "nobody", 1), lambda *a: answers.append(a), supervised=False)
    await host.until(lambda: answers)
    assert answers == [(False, "scheduler@nobody cannot be reached")]


async def test_details_come_when_they_are_asked_for_and_not_before(host: Host) -> None:
    await host.until(lambda: "metrics@host" in host.world.processes)
    assert host.world.details.host is None
    for kind in DETAILS:
        host.feed.ask(kind)
    await host.until(lambda: host.world.details.complete)
    assert host.world.details.host is not None
    assert host.world.details.host.cores
    assert host.world.details.models is not None
    assert host.world.details.models.memory_bytes == host.world.details.host.memory.total
    assert 0.0 <= host.world.details.age_s("bus", host.feed.now_ns()) < 20
