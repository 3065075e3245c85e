"""The supervisor's decisions, under a virtual clock: laws over any history, then the cases that operators know."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.config import Config, ModelConfig
from cli.supervisor.actions import Action, AskDrain, AskStop, AskUndrain, Finished, Kill, Promote, Say, Spawn
from cli.supervisor.core import Adopted, Fleet
from cli.supervisor.group import Group, Policy
from cli.supervisor.plan import STOP_ORDER, desired_units, unit_named
from cli.supervisor.roster import Refused

CONFIG = Config(
    model=(
        ModelConfig(name="small", source="catalog:small"),
        ModelConfig(name="wide", source="catalog:wide", replicas=2, tensor_parallel=2),
    )
)
NAMES = [unit.name for unit in desired_units(CONFIG)]
WITH_STANDBYS = Config(model=tuple(msgspec.structs.replace(model, standby=1) for model in CONFIG.model))


class World:
    """Carries out actions the way the operating system would, and checks what must hold whenever it does."""

    def __init__(self, config: Config = CONFIG, policy: Policy | None = None) -> None:
        self.fleet = Fleet(desired_units(config), policy)
        self.now = 1000.0
        self.pids: dict[str, int] = {}
        self.asked_to_stop: set[str] = set()
        self.stop_deadlines: dict[str, float] = {}
        self.drained: set[str] = set()
        self.spawns: list[tuple[float, str]] = []
        self.promoted: list[str] = []
        self.said: list[str] = []
        self.finished = False
        self.cannot_spawn: set[str] = set()
        self._next_pid = 100

    def start(self, adopted: Iterable[str] = ()) -> None:
        running = {}
        for name in adopted:
            self.pids[name] = self._pid()
            running[name] = Adopted(self.pids[name], self.now)
        self.do(self.fleet.start(running, self.now))

    def _pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    def do(self, actions: list[Action]) -> None:
        queue = list(actions)
        while queue:
            action = queue.pop(0)
            match action:
                case Spawn(name):
                    queue += self._spawn(name)
                case Promote(name, standby):
                    assert name not in self.pids, "two processes of one name"
                    self.pids[name] = self.pids.pop(standby)
                    self.promoted.append(name)
                case Kill(name, pid):
                    if self.pids.get(name) == pid:
                        queue += self._gone(name, -9)
                case AskStop(name, deadline_s):
                    assert name in self.pids, "only what runs is asked"
                    self.asked_to_stop.add(name)
                    self.stop_deadlines[name] = deadline_s
                case AskDrain(name) | AskUndrain(name):
                    (self.drained.add if isinstance(action, AskDrain) else self.drained.discard)(name)
                case Say(_, name, text):
                    self.said.append(f"{name}: {text}")
                case Finished():
                    assert not self.finished, "said once"
                    self.finished = True

    def _spawn(self, name: str) -> list[Action]:
        assert name not in self.pids, "two processes of one name"
        assert not self.finished
        if name in self.cannot_spawn:
            return self.fleet.spawn_failed(name, "no memory", self.now)
        self.spawns.append((self.now, name))
        self.pids[name] = self._pid()
        return self.fleet.spawned(name, self.pids[name], self.now)

    def _gone(self, name: str, code: int) -> list[Action]:
        pid = self.pids.pop(name)
        self.asked_to_stop.discard(name)
        self.drained.discard(name)
        return self.fleet.exited(name, pid, code, self.now)

    def die(self, name: str, code: int = -9) -> None:
        self.do(self._gone(name, code))

    def ready(self, *names: str) -> None:
        for name in names or tuple(self.pids):
            if name in self.pids:
                state = "draining" if name in self.drained else "ready"
                self.do(self.fleet.reported(name, self.pids[name], state, True, self.now))

    def pass_time(self, seconds: float) -> None:
        """As the service does: wakes up whenever the core asked for it."""
        until = self.now + seconds
        while (wake := self.fleet.next_wake()) is not None and wake <= until:
            self.now = max(self.now, wake)
            self.do(self.fleet.tick(self.now))
        self.now = until

    def state(self, name: str) -> str:
        return next(unit.state for unit in self.fleet.units() if unit.name == name)


class Histories(RuleBasedStateMachine):
    """Any order of deaths, reports, commands and time."""

    config = CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.config)
        self.groups = {unit.name: unit.group for unit in desired_units(self.config)}
        self.stopping = False

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.world.start(sorted(data.draw(st.sets(self.names()))))

    def names(self) -> st.SearchStrategy[str]:
        return st.sampled_from(list(self.groups))

    def running(self) -> list[str]:
        return sorted(self.world.pids)

    @precondition(lambda self: self.world.pids)
    @rule(data=st.data(), code=st.sampled_from([-9, -6, 0, 1, 69, 70, 78]))
    def a_process_dies(self, data: st.DataObject, code: int) -> None:
        self.world.die(data.draw(st.sampled_from(self.running())), code)

    @precondition(lambda self: self.world.asked_to_stop)
    @rule(data=st.data())
    def one_ends_as_asked(self, data: st.DataObject) -> None:
        self.world.die(data.draw(st.sampled_from(sorted(self.world.asked_to_stop))), 0)

    @precondition(lambda self: self.world.pids)
    @rule(data=st.data())
    def one_is_ready(self, data: st.DataObject) -> None:
        self.world.ready(data.draw(st.sampled_from(self.running())))

    @precondition(lambda self: self.world.pids)
    @rule(data=st.data())
    def one_hangs(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.running()))
        self.world.do(self.world.fleet.hung(name, self.world.pids[name]))

    @rule(data=st.data())
    def some_cannot_be_started(self, data: st.DataObject) -> None:
        self.world.cannot_spawn = data.draw(st.sets(self.names(), max_size=2))

    @rule(seconds=st.sampled_from([0.05, 0.3, 2.0, 15.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(
        data=st.data(),
        verb=st.sampled_from(["drain", "undrain", "restart"]),
        deadline=st.sampled_from([0.0, 30.0]),
    )
    def an_operator_asks(self, data: st.DataObject, verb: str, deadline: float) -> None:
        name = data.draw(self.names())
        fleet, now = self.world.fleet, self.world.now
        try:
            match verb:
                case "drain":
                    self.world.do(fleet.drain(name, deadline))
                case "undrain":
                    self.world.do(fleet.undrain(name))
                case _:
                    self.world.do(fleet.restart(name, deadline, now))
        except Refused:
            drains_a_standby = verb == "drain" and name.startswith("standby@")
            not_up = name not in self.world.pids or fleet.roster.groups[self.groups[name]].phase != "up"
            assert not_up or self.stopping or drains_a_standby

    @rule(deadline=st.sampled_from([0.0, 20.0]))
    def everything_is_stopped(self, deadline: float) -> None:
        self.stopping = True
        self.world.do(self.world.fleet.stop(deadline, self.world.now))

    @invariant()
    def the_core_knows_who_runs(self) -> None:
        known = {unit.name: unit.pid for unit in self.world.fleet.units() if unit.pid}
        assert known == self.world.pids

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What does not run has a time at which it starts again, or a reason not to."""
        for group in self.world.fleet.roster.groups.values():
            if group.phase == "down":
                assert not group.alive()
                waits = group.role == "standby" and not self.worker_of(group.name).ready_since
                assert waits or group.until is not None or group.refused or group.then == "stay"
            if group.phase in ("leaving", "draining"):
                assert group.alive()
                assert group.until is not None, "nobody may leave for ever"

    def worker_of(self, standby: str) -> Group:
        return self.world.fleet.roster.groups[unit_named(standby.replace("standby@", "worker@")).group]

    @invariant()
    def no_wait_is_longer_than_the_policy_allows(self) -> None:
        policy = self.world.fleet.policy
        for group in self.world.fleet.roster.groups.values():
            if group.phase == "down" and group.until is not None:
                limit = policy.failed_retry_s if group.failed(policy) else policy.delay_cap_s
                assert group.until - self.world.now <= limit

    @invariant()
    def ranks_live_together(self) -> None:
        """A group that is up has all its ranks, or none of them is left alone for long."""
        for group in self.world.fleet.roster.groups.values():
            if group.phase == "up":
                assert len(group.alive()) == len(group.members)

    @invariant()
    def kv_outlives_everybody(self) -> None:
        if self.stopping and self.world.fleet.roster.groups["kv@host"].then == "stay":
            assert set(self.world.pids) <= {"kv@host"}

    def teardown(self) -> None:
        """Whatever has happened: it comes up, and everything ends when it is told to."""
        world = self.world
        world.cannot_spawn = set()
        if not self.stopping:
            for group in world.fleet.roster.groups.values():
                if group.refused:
                    world.do(world.fleet.restart(group.name, 0.0, world.now))
            for _ in range(3):
                world.pass_time(200.0)
                for group in world.fleet.roster.groups.values():
                    if group.held and group.phase == "up":  # a standby waits for a worker that is ready
                        world.do(world.fleet.undrain(group.name))
                world.ready()
            assert set(world.pids) == set(self.groups)
        world.do(world.fleet.stop(5.0, world.now))
        world.pass_time(300.0)
        assert world.finished
        assert not world.pids


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


class HistoriesWithStandbys(Histories):
    """The same laws, where every rank has a standby."""

    config = WITH_STANDBYS


TestHistoriesWithStandbys = HistoriesWithStandbys.TestCase
TestHistoriesWithStandbys.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def test_starts_kv_first_and_batch_last(world: World) -> None:
    names = [name for _, name in world.spawns]
    assert names[0] == "kv@host"
    assert names[-2:] == ["ingress@0", "batch@host"]
    assert sorted(names) == sorted(NAMES)


def test_backs_off_twice_as_long_each_time_up_to_the_cap_and_then_says_failed(world: World) -> None:
    waits = []
    for _ in range(4):
        world.die("scheduler@small", 1)
        before = world.now
        world.pass_time(world.fleet.next_wake() - world.now)
        waits.append(round(world.now - before, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8]
    world.die("scheduler@small", 1)
    assert world.state("scheduler@small") == "failed"
    assert any("FAILED: died 5 times" in line for line in world.said)
    world.pass_time(29.0)
    assert "scheduler@small" not in world.pids
    world.pass_time(1.1)
    assert "scheduler@small" in world.pids, "a failed process is still tried, slowly"
    assert world.state("scheduler@small") == "failed", "until it has shown that it can run"
    world.ready("scheduler@small")
    assert world.state("scheduler@small") == "ready"


def test_a_process_that_was_ready_is_back_within_a_second_however_often_it_is_killed(world: World) -> None:
    for _ in range(40):
        world.ready("worker@small.0.0")
        world.die("worker@small.0.0")
        world.pass_time(1.0)
        assert "worker@small.0.0" in world.pids


def test_a_stable_run_forgives(world: World) -> None:
    for _ in range(3):
        world.die("metrics@host", 1)
        world.pass_time(5.0)
    world.ready("metrics@host")
    world.pass_time(60.0)
    world.die("metrics@host", 1)
    assert "metrics@host" in world.pids, "at once"
    world.ready("metrics@host")
    world.die("metrics@host", 1)
    wake = world.fleet.next_wake()
    assert wake is not None
    assert wake - world.now == pytest.approx(0.2), "not at once each time"


def test_bad_configuration_is_not_retried_until_asked(world: World) -> None:
    world.die("ingress@0", 78)
    world.pass_time(10_000.0)
    assert "ingress@0" not in world.pids
    assert world.state("ingress@0") == "failed"
    world.do(world.fleet.restart("ingress@0", 10.0, world.now))
    assert "ingress@0" in world.pids
    assert world.state("ingress@0") == "starting"


def test_exit_code_0_that_nobody_asked_for_is_a_death(world: World) -> None:
    world.ready()
    world.die("scheduler@wide", 0)
    world.pass_time(0.2)
    assert "scheduler@wide" in world.pids
    assert any("though nobody asked" in line for line in world.said)


def test_ranks_of_a_replica_restart_as_one_and_the_other_replica_goes_on(world: World) -> None:
    world.ready()
    before = dict(world.pids)
    world.die("worker@wide.1.0", -11)
    assert world.pids["worker@wide.1.0"] != before["worker@wide.1.0"]
    assert world.pids["worker@wide.1.1"] != before["worker@wide.1.1"]
    assert world.pids["worker@wide.0.0"] == before["worker@wide.0.0"]


def test_a_drained_process_is_drained_again_after_a_crash_until_undrained(world: World) -> None:
    world.ready()
    world.do(world.fleet.drain("ingress@0", 60.0))
    assert "ingress@0" in world.drained
    world.die("ingress@0")
    world.pass_time(1.0)
    assert "ingress@0" not in world.drained
    world.ready("ingress@0")
    assert "ingress@0" in world.drained
    world.do(world.fleet.undrain("ingress@0"))
    world.ready("ingress@0")
    assert "ingress@0" not in world.drained


def test_a_worker_is_drained_before_its_restart_where_another_replica_serves(world: World) -> None:
    world.ready()
    names = ("worker@wide.1.0", "worker@wide.1.1")
    before = {name: world.pids[name] for name in names}
    world.do(world.fleet.restart(names[0], 60.0, world.now))
    for name in names:
        assert world.state(name) == "draining"
        world.do(world.fleet.reported(name, before[name], "draining", False, world.now))
    assert not world.asked_to_stop, "it has work in hand"
    world.do(world.fleet.reported(names[0], before[names[0]], "draining", True, world.now))
    assert world.asked_to_stop == set(names)
    for name in names:
        world.die(name, 0)
    assert all(world.pids[name] != pid for name, pid in before.items())


def test_a_drain_before_a_restart_ends_at_its_deadline_and_what_is_left_is_handed_on(world: World) -> None:
    world.ready()
    world.do(world.fleet.restart("worker@wide.1.0", 60.0, world.now))
    world.pass_time(59.0)
    assert not world.asked_to_stop
    world.pass_time(2.0)
    assert world.stop_deadlines["worker@wide.1.0"] == 0.0
    assert "worker@wide.1.0" in world.pids, "it is asked, not killed"


@pytest.mark.parametrize("name", ["worker@small.0.0", "worker@wide.0.0", "scheduler@small"])
def test_whom_nobody_can_stand_in_for_goes_at_once_and_hands_on_what_it_has(world: World, name: str) -> None:
    world.ready()
    world.do(world.fleet.drain("worker@wide.1.0", 60.0))  # so the other replica of it takes nothing new
    world.do(world.fleet.restart(name, 60.0, world.now))
    assert world.stop_deadlines[name] == 0.0
    assert name in world.pids


def test_a_restart_with_no_deadline_kills(world: World) -> None:
    world.ready()
    pid = world.pids["worker@small.0.0"]
    world.do(world.fleet.restart("worker@small.0.0", 0.0, world.now))
    assert world.pids["worker@small.0.0"] != pid


def test_stops_in_order_and_a_crash_behind_a_draining_ingress_is_still_healed(world: World) -> None:
    world.ready()
    world.do(world.fleet.stop(30.0, world.now))
    assert world.asked_to_stop == {"batch@host"}
    world.die("batch@host", 0)
    world.pass_time(0.2)
    assert world.asked_to_stop == {"ingress@0"}
    world.die("scheduler@small")
    world.pass_time(0.2)
    assert "scheduler@small" in world.pids, "streams that drain need their scheduler"
    order = ["batch"]
    while not world.finished:
        for name in sorted(world.asked_to_stop):
            order.append(name.partition("@")[0])
            world.die(name, 0)
    assert sorted(set(order), key=order.index) == [role for role in STOP_ORDER if role not in ("standby", "accounts")]
    assert order == sorted(order, key=STOP_ORDER.index)


def test_what_does_not_end_is_killed_and_a_second_stop_kills_at_once(world: World) -> None:
    world.ready()
    world.do(world.fleet.stop(30.0, world.now))
    world.pass_time(34.0)
    assert "ingress@0" in world.pids
    world.do(world.fleet.stop(0.0, world.now))
    world.pass_time(0.0)
    assert world.finished


def test_adopts_what_runs_restarts_half_groups_and_ends_strangers() -> None:
    world = World()
    world.start(["kv@host", "worker@small.0.0", "worker@wide.0.1", "worker@gone.0.0"])
    spawned = {name for _, name in world.spawns}
    assert "kv@host" not in spawned
    assert "worker@small.0.0" not in spawned
    assert {"worker@wide.0.0", "worker@wide.0.1"} <= spawned
    assert world.asked_to_stop == {"worker@gone.0.0"}
    world.die("worker@gone.0.0", 0)
    world.pass_time(1000.0)
    assert "worker@gone.0.0" not in world.pids


def test_commands_for_nobody_are_refused_with_the_names_there_are(world: World) -> None:
    with pytest.raises(Refused, match=r"worker@small\.0\.0"):
        world.fleet.restart("worker@nobody.0.0", 1.0, world.now)
    world.die("ingress@0", 78)
    with pytest.raises(Refused, match="not running"):
        world.fleet.drain("ingress@0", 1.0)


@pytest.fixture
def doubled() -> World:
    """Everything is ready, standbys too."""
    world = World(WITH_STANDBYS)
    world.start()
    assert not any(name.startswith("standby@") for name in world.pids), "no standby before its worker is ready"
    world.ready()
    world.ready()
    assert len([name for name in world.pids if name.startswith("standby@")]) == 5
    return world


def test_a_standby_becomes_the_worker_and_the_next_one_waits_until_it_is_ready(doubled: World) -> None:
    name, standby = "worker@small.0.0", "standby@small.0.0"
    heir = doubled.pids[standby]
    doubled.die(name)
    assert doubled.pids[name] == heir
    assert doubled.state(name) == "starting"
    assert doubled.state(standby) == "starting"
    doubled.pass_time(10.0)
    assert standby not in doubled.pids
    doubled.ready(name)
    assert doubled.pids[standby] != heir
    assert doubled.state(name) == "ready"


def test_the_standbys_of_all_ranks_go_over_together(doubled: World) -> None:
    heirs = {rank: doubled.pids[f"standby@wide.1.{rank}"] for rank in (0, 1)}
    doubled.die("worker@wide.1.0", -11)
    assert {rank: doubled.pids[f"worker@wide.1.{rank}"] for rank in (0, 1)} == heirs
    assert "standby@wide.0.0" in doubled.pids, "the other replica keeps its own"


def test_a_rank_without_a_standby_is_started_beside_the_others(doubled: World) -> None:
    doubled.die("standby@wide.1.1")
    heir = doubled.pids["standby@wide.1.0"]
    doubled.die("worker@wide.1.0")
    doubled.pass_time(1.0)
    assert doubled.pids["worker@wide.1.0"] == heir
    assert "worker@wide.1.1" in doubled.pids


def test_a_standby_that_is_not_ready_yet_takes_over_too(doubled: World) -> None:
    doubled.die("worker@small.0.0")
    doubled.ready("worker@small.0.0")
    loading = doubled.pids["standby@small.0.0"]
    doubled.die("worker@small.0.0")
    assert doubled.pids["worker@small.0.0"] == loading


def test_a_standby_that_dies_is_started_again(doubled: World) -> None:
    doubled.die("standby@small.0.0")
    doubled.pass_time(1.0)
    assert "standby@small.0.0" in doubled.pids
    assert doubled.promoted == []


def test_a_restart_drains_the_worker_and_its_standby_takes_over(doubled: World) -> None:
    name, heir = "worker@small.0.0", doubled.pids["standby@small.0.0"]
    doubled.do(doubled.fleet.restart(name, 60.0, doubled.now))
    doubled.do(doubled.fleet.reported(name, doubled.pids[name], "draining", True, doubled.now))
    doubled.die(name, 0)
    assert doubled.pids[name] == heir


def test_standbys_end_before_the_workers_do(doubled: World) -> None:
    doubled.do(doubled.fleet.stop(30.0, doubled.now))
    assert {name.partition("@")[0] for name in doubled.asked_to_stop} == {"standby"}


def test_a_worker_that_must_not_run_has_no_standby(doubled: World) -> None:
    doubled.die("worker@small.0.0", 78)
    assert "standby@small.0.0" not in doubled.pids
    doubled.pass_time(10_000.0)
    assert not {"standby@small.0.0", "worker@small.0.0"} & set(doubled.pids)
    doubled.do(doubled.fleet.restart("worker@small.0.0", 10.0, doubled.now))
    doubled.ready("worker@small.0.0")
    assert "standby@small.0.0" in doubled.pids


def test_a_standby_has_nothing_to_drain(doubled: World) -> None:
    with pytest.raises(Refused, match="nothing to drain"):
        doubled.fleet.drain("standby@small.0.0", 1.0)


def test_standbys_are_adopted_and_those_that_nobody_wants_are_ended() -> None:
    world = World(WITH_STANDBYS)
    world.start(["worker@small.0.0", "standby@small.0.0", "standby@gone.0.0"])
    before = world.pids["standby@small.0.0"]
    assert world.asked_to_stop == {"standby@gone.0.0"}
    world.ready()
    assert world.pids["standby@small.0.0"] == before
    plain = World()
    plain.start(["worker@small.0.0", "standby@small.0.0"])
    assert plain.asked_to_stop == {"standby@small.0.0"}


def test_one_whose_start_fails_after_its_turn_to_end_is_not_tried_again(world: World) -> None:
    """It was being restarted when everything was to end, and its start was under way when its turn came."""
    world.do(world.fleet.restart("scheduler@small", 30.0, world.now))
    world.do(world.fleet.stop(20.0, world.now))
    world.cannot_spawn = {"scheduler@small"}
    world.do(world.fleet.stop(0.0, world.now))
    assert world.finished
    assert world.fleet.next_wake() is None
