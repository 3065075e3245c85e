"""Ready and progressing, as the scheduler knows them: while workers are lost, stopped or slow, and in long steps."""

from __future__ import annotations

from simulated import World

from bus.messages.requests import ModelFacts
from scheduler.core import events as e


def facts(world: World) -> ModelFacts:
    return world.core.facts(b"", 0)


def ticks(world: World, seconds: float) -> None:
    """Time passes, seen in steps as the process's timer makes it."""
    for _ in range(int(seconds / 0.05)):
        world.tick()


def trained(**limits: object) -> World:
    """A world whose cost model knows how long steps take."""
    world = World(**limits)  # type: ignore[arg-type]
    world.start()
    for _ in range(4):
        world.submit([1, 2, 3, 4, 5])
    world.settle()
    assert all(replica.cost.trusted for replica in world.core.state.replicas.values())
    return world


def test_an_idle_model_is_ready_and_stands_not_still() -> None:
    world = trained()
    for _ in range(600):
        world.tick(0.1)
        world.do(e.ReplicaComputed(0, 5_000_000_000))  # it uses no CPU, as it should
    assert facts(world).replicas_ready == 1
    assert world.core.state.replicas[0].watch.waited_ns == 0
    assert (facts(world).trouble, facts(world).stuck, facts(world).stuck_ns) == ("", "", 0)


def test_a_replica_that_is_frozen_is_not_ready_and_gets_nothing_new() -> None:
    world = trained(replicas=2)
    world.do(e.ReplicaFrozen(0, "worker@m.0.0 is stopped"))
    assert facts(world).replicas_ready == 1
    assert facts(world).trouble == "worker@m.0.0 is stopped"
    client = world.submit([7, 8, 9])
    assert world.core.state.requests[client.submit.request].replica == 1
    world.do(e.ReplicaFrozen(0, ""))
    assert (facts(world).replicas_ready, facts(world).trouble) == (2, "")


def test_work_on_a_frozen_replica_stands_still_and_says_since_when() -> None:
    world = trained()
    world.submit([1, 2, 3])
    world.tick()
    assert facts(world).stuck == ""
    world.do(e.ReplicaFrozen(0, "worker@m.0.0 is stopped"))
    world.tick()
    since = world.now
    ticks(world, 1)
    assert (facts(world).stuck, facts(world).stuck_ns) == ("worker@m.0.0 is stopped", since)
    world.do(e.ReplicaFrozen(0, ""))
    world.tick()
    assert facts(world).stuck_ns == 0


def test_a_step_without_cpu_stands_still_long_before_it_is_killed() -> None:
    world = trained()
    world.submit([1, 2, 3])
    for _ in range(int(2 / 0.05)):
        world.tick()
        world.do(e.ReplicaComputed(0, 5_000_000_000))  # the same as before
    assert not world.killed
    assert facts(world).replicas_ready == 0
    assert "no CPU" in facts(world).stuck


def test_a_long_step_that_computes_is_no_standstill() -> None:
    """Before its times are known, and for as long as they allow."""
    world = World()
    world.start()
    world.submit([1, 2, 3])
    while world.kv_turn():
        pass
    for number in range(int(9 / 0.05)):
        world.tick()
        world.do(e.ReplicaComputed(0, 50_000_000 * number))
    assert (facts(world).stuck, facts(world).replicas_ready) == ("", 1)


def test_a_step_far_beyond_its_prediction_stands_still() -> None:
    world = trained()
    world.submit([1, 2, 3])
    for number in range(int(4 / 0.05)):
        world.tick()
        world.do(e.ReplicaComputed(0, 50_000_000 * number))
    assert "far longer" in facts(world).stuck


def test_requests_without_a_replica_stand_still_until_one_is_back() -> None:
    world = trained()
    world.submit([1, 2, 3])
    world.kill(0)
    world.tick()
    assert "lost and not back yet" in facts(world).trouble
    assert facts(world).stuck.startswith("no replica is there")
    world.revive(0)
    world.tick()
    assert (facts(world).trouble, facts(world).stuck) == ("", "")
    world.settle()
