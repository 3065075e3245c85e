"""A worker with a real executor on a real socket, and a scheduler that says what the test wants.

All of it holds alike where a step is through when it was launched, and where the device is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import PlainPages, Row, as_array, make_open, make_plan
from toy import PAGE_TOKENS, VOCABULARY, Toy, expected_greedy, toy_pages

from bus.config import Config
from bus.loop import PollLoop
from bus.messages.steps import (
    KvShape,
    Registered,
    Reset,
    StepFailed,
    StepPlan,
    StepResult,
    ToSchedulerFromWorker,
)
from bus.names import STEPS_DOOR
from bus.process import Life
from bus.server import Peer, Server
from workers.conversation import Conversation
from workers.group import Alone, GroupBroken
from workers.step.execute import Executor
from workers.step.readback import HostReader
from workers.step.slots import Slots

SHAPE = KvShape(1, 1, PAGE_TOKENS, 1, "float32")
REGISTERED = Registered("toy", 0, 0, 1, 1, b"digest", SHAPE, 64, VOCABULARY, b"", 4, 512, "cpu", "float32")


class Fences:
    """Stands for the session with kv: hears what the worker promises."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def fenced(self, owner: str, epoch: int) -> bool:
        self.heard.append((owner, epoch))
        return True


class Scheduler:
    """One incarnation of a scheduler that keeps what it hears."""

    def __init__(self, run: Path, loop: PollLoop, epoch: int) -> None:
        self.life = Life("scheduler@toy", epoch, run, Config(), None, loop)
        self.heard: list[Any] = []
        self.server: Server[Any] = Server(
            self.life, STEPS_DOOR, "steps", ToSchedulerFromWorker, roles=["worker"], on_message=self._on_message
        )

    def _on_message(self, peer: Peer, message: Any) -> None:
        del peer
        self.heard.append(message)

    def say(self, *messages: Any) -> None:
        (peer,) = self.server.peers.values()
        for message in messages:
            assert self.server.send(peer, message)

    def close(self) -> None:
        self.server.close()
        self.life.context.destroy(linger=0)


class World:
    """A worker, a scheduler, one loop."""

    def __init__(self, run: Path, late_s: float) -> None:
        self.run, self.loop = run, PollLoop()
        self.scheduler = Scheduler(run, self.loop, epoch=10)
        self.life = Life("worker@toy.0.0", 5, run, Config(), None, self.loop)
        self.toy, self.fences = Toy(poison=50), Fences()
        self.slots = Slots(4, 64, PAGE_TOKENS, VOCABULARY, 32, torch.device("cpu"))
        self.executor = Executor(self.toy, self.slots, PlainPages(toy_pages(32)), Alone(), reader=HostReader(late_s))
        self.group: Any = Alone()
        self.conversation = Conversation(self.life, REGISTERED, self.executor, self.group, self.fences)  # type: ignore[arg-type]

    def until(self, true: Callable[[], bool], turns: int = 2000) -> None:
        for _ in range(turns):
            if true():
                return
            self.loop.turn(0.02)
        raise AssertionError(f"waited in vain; the scheduler heard {self.scheduler.heard}")

    def hear(self, count: int) -> list[Any]:
        """The first `count` messages of the worker to the present scheduler."""
        self.until(lambda: len(self.scheduler.heard) >= count)
        assert len(self.scheduler.heard) == count
        return self.scheduler.heard

    def new_scheduler(self, epoch: int) -> None:
        self.scheduler.close()
        self.scheduler = Scheduler(self.run, self.loop, epoch)

    def close(self) -> None:
        self.conversation.close()
        self.scheduler.close()
        self.life.context.destroy(linger=0)


@pytest.fixture(params=[0.0, 0.02], ids=["at once", "late"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def late(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 0.2)
    yield made
    made.close()


def first_plan(step: int, slot: int = 0, tokens: tuple[int, ...] = (1, 2, 3)) -> StepPlan:
    rows: list[Row] = [(slot, 0, len(tokens), True)]
    return make_plan(step, rows, opens=[make_open(slot, tokens, [4, 5, 6])])


def test_it_registers_and_executes_plans_that_are_in_flight_together(world: World) -> None:
    assert world.hear(1) == [REGISTERED]
    world.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]), make_plan(3, [(0, 4, 1, True)]))
    results = world.hear(4)[1:]
    assert [result.step for result in results] == [1, 2, 3]
    assert [as_array(result.tokens)[0] for result in results] == expected_greedy([1, 2, 3], 3)
    assert world.life.progress == 3
    assert not world.life.busy


def test_plans_are_executed_one_a_turn_and_the_worker_is_busy_meanwhile(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]))
    world.until(lambda: world.life.busy)
    world.until(lambda: world.life.progress == 1)
    assert world.life.busy, "the second plan waits"
    assert not world.conversation.idle
    world.until(lambda: not world.life.busy)
    assert world.conversation.idle


def test_the_next_step_is_launched_before_the_last_one_is_told(late: World) -> None:
    """And the loop goes on: commands, heartbeats and the end of a scheduler are seen meanwhile."""
    late.hear(1)
    late.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]))
    late.until(lambda: late.executor.in_flight == 2)
    assert late.life.progress == 0
    assert late.life.busy
    assert [result.step for result in late.hear(3)[1:]] == [1, 2]
    assert late.conversation.idle


def test_a_step_that_fails_takes_the_one_that_was_launched_behind_it_along(late: World) -> None:
    late.hear(1)
    late.scheduler.say(first_plan(1, 2, (3, 50)), make_plan(2, [(2, 2, 1, True)]))
    late.until(lambda: late.executor.in_flight == 2)
    first, second = late.hear(3)[1:]
    assert (first.step, as_array(first.slots), second.step, as_array(second.slots)) == (1, [2], 2, [])
    assert "step 1 before it failed" in second.error
    assert late.slots.in_use == 0


def test_a_failure_that_another_rank_has_read_already_keeps_the_next_step_from_being_launched(
    late: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a step in flight that will fail, when the others say at the next plan that it has, then that plan is not
    launched, since its collectives would wait for them, and both are told in order."""
    monkeypatch.setattr(late.group, "agree", lambda *given: given[1] == 1, raising=False)
    late.hear(1)
    late.scheduler.say(first_plan(1, 2, (3, 50)), make_plan(2, [(2, 2, 1, True)]))
    first, second = late.hear(3)[1:]
    assert len(late.toy.batches) == 1
    assert (first.step, as_array(first.slots), second.step, as_array(second.slots)) == (1, [2], 2, [])
    assert late.life.exit_code == 0


def test_a_failed_step_names_its_slot_and_the_plan_behind_it_fails_without_blame(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1, 2, (3, 50)), make_plan(2, [(2, 2, 1, True)]), first_plan(3))
    first, second, third = world.hear(4)[1:]
    assert isinstance(first, StepFailed)
    assert (first.step, as_array(first.slots)) == (1, [2])
    assert isinstance(second, StepFailed)
    assert (second.step, as_array(second.slots)) == (2, [])
    assert isinstance(third, StepResult)
    assert as_array(third.tokens) == expected_greedy([1, 2, 3], 1)


def test_a_reset_drops_waiting_plans_and_closes_slots(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]), Reset(3), make_plan(3))
    world.until(lambda: any(getattr(heard, "step", 0) == 3 for heard in world.scheduler.heard))
    assert world.slots.in_use == 0
    assert world.scheduler.heard[-1] == StepResult(3, b"", b"", world.scheduler.heard[-1].waited_ns, 0)


def test_a_lost_plan_fails_the_next_one(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1), make_plan(3, [(0, 3, 1, True)]))
    world.until(lambda: isinstance(world.scheduler.heard[-1], StepFailed))
    failed = world.scheduler.heard[-1]
    assert failed.step == 3
    assert "step 3 came where 2" in failed.error
    assert world.slots.in_use == 0


def test_a_repeated_plan_is_executed_once(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1), first_plan(1), make_plan(2, [(0, 3, 1, True)]))
    assert [result.step for result in world.hear(3)[1:]] == [1, 2]


def test_a_new_scheduler_finds_slots_closed_and_kv_hears_the_fence_first(world: World) -> None:
    world.hear(1)
    assert world.fences.heard == [("scheduler@toy", 10)]
    world.scheduler.say(first_plan(1))
    world.hear(2)
    assert world.slots.in_use == 1
    world.new_scheduler(epoch=11)
    world.until(lambda: bool(world.scheduler.heard))
    assert world.scheduler.heard == [REGISTERED]
    assert world.fences.heard == [("scheduler@toy", 10), ("scheduler@toy", 11)]
    assert world.slots.in_use == 0
    world.scheduler.say(Reset(1), first_plan(1, 3))
    assert as_array(world.hear(2)[1].tokens) == expected_greedy([1, 2, 3], 1)


def test_plans_of_a_scheduler_that_is_gone_are_not_executed(world: World) -> None:
    """Both plans arrive in one turn; the scheduler closes before the second one's turn comes."""
    world.hear(1)
    world.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]))
    world.until(lambda: world.life.progress == 1)
    world.conversation._on_down("died")
    world.until(lambda: not world.life.busy)
    for _ in range(5):
        world.loop.turn(0.01)
    assert world.life.progress == 1


def test_kv_that_restarts_hears_the_fence_again(world: World) -> None:
    world.hear(1)
    world.conversation.say_fenced()
    assert world.fences.heard == [("scheduler@toy", 10)] * 2


def test_a_broken_group_fails_the_step_and_ends_the_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(epoch: int, step: int, failures: int) -> bool:
        raise GroupBroken(f"ranks are at different plans than {epoch}, {step}, {failures}")

    monkeypatch.setattr(world.group, "agree", disagree, raising=False)
    world.hear(1)
    world.scheduler.say(first_plan(1))
    failed = world.hear(2)[1]
    assert isinstance(failed, StepFailed)
    assert "different plans than 10, 1" in failed.error
    assert (world.life.state, world.life.exit_code) == ("failed", 70)


def test_steps_are_measured(world: World) -> None:
    world.hear(1)
    world.scheduler.say(first_plan(1), make_plan(2, [(0, 3, 1, True)]), make_plan(3, closes=[0]))
    world.hear(4)
    told = world.life.telemetry.series()
    series = {one.name: one for one in told}
    parts = {dict(one.labels)["part"]: one.value for one in told if one.name == "headrace_step_part_seconds_total"}
    assert parts.keys() == {"forward", "everything else"}
    assert parts["forward"] == pytest.approx(2e-6), "a microsecond a batch, says the toy"
    assert sum(parts.values()) == pytest.approx(series["headrace_step_seconds"].value)
    assert series["headrace_step_tokens_total"].value == 4
    assert series["headrace_drawn_tokens_total"].value == 2
    assert series["headrace_step_seconds"].buckets[-1] == 2
    assert ("model", "toy") in series["headrace_step_rows"].labels
