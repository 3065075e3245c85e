"""Requests that take their worker down: each is found within a bounded number of failures, and nobody else pays."""

from __future__ import annotations

from math import ceil, log2

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import Client, Poison, World

from scheduler.core import events as e
from scheduler.core.budget import MOST_ASIDE
from scheduler.core.request import Standing

KINDS = ("unnamed", "crash", "hang", "open")


def ready(**more: object) -> World:
    world = World(**({"capacity": 120, "slots": 8, "hang_ns": 1e9, "step_tokens": 64} | more))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def poison(world: World, client: Client, kind: str = "crash", position: int | None = None) -> None:
    for worker in world.workers.values():
        worker.poison[client.submit.request] = Poison(kind, position)


def bound(batch: int) -> int:
    """Failures until one of a batch is found."""
    return 3 + max(1, ceil(log2(batch)))


def condemned(client: Client) -> bool:
    return client.finished is not None and client.finished.reason == "error"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 64])
def test_one_in_a_batch_is_found_by_bisection_and_the_others_complete(batch: int, kind: str) -> None:
    world = ready(slots=batch, step_tokens=1024, capacity=600)
    clients = [world.submit([n, n, n], 8, stops=(), reuse=False) for n in range(batch)]
    bad = clients[batch // 2]
    poison(world, bad, kind)
    world.settle()
    assert condemned(bad)
    assert bad.finished is not None
    assert "took its worker down" in bad.finished.error
    assert all(client.tokens == client.expected for client in clients if client is not bad)
    assert world.failures <= bound(batch)
    world.check_done()


def test_it_is_not_taken_again() -> None:
    world = ready()
    bad = world.submit([6, 6, 6], 8, stops=())
    poison(world, bad)
    world.settle()
    world.resubmit(bad)
    assert bad.refused is not None
    assert bad.refused.code == "quarantined"


def test_what_was_submitted_meanwhile_goes_on_beside_a_trial_and_in_other_steps() -> None:
    world = ready(step_tokens=16)
    bad, others = world.submit([6] * 20, 4, stops=()), [world.submit([n] * 20, 4, stops=()) for n in range(3)]
    poison(world, bad, "unnamed", 19)
    while not world.core.state.suspects.any:
        world.turn(1)
    late = world.submit([30, 31], 12, stops=())
    plans = len(world.plans)
    world.settle()
    assert condemned(bad)
    assert late.tokens == late.expected
    assert all(client.tokens == client.expected for client in others)
    assert len(world.plans) > plans


def test_one_replica_is_taken_down_by_a_suspect_and_the_others_are_left_alone() -> None:
    world = ready(replicas=3)
    bad = world.submit([6, 6, 6], 8, stops=(), reuse=False)
    poison(world, bad)
    others = [world.submit([n, n, n], 30, stops=(), reuse=False) for n in range(12)]
    world.settle()
    assert condemned(bad)
    assert all(client.tokens == client.expected for client in others)
    lost = [action.replica for action in world.resets[3:]]
    assert len(lost) <= bound(5)
    assert len(set(lost[1:])) == 1, "the first retry may be anywhere; from then on it is tried where it failed"


def test_a_replica_that_fails_whatever_it_is_given_condemns_nobody_where_another_works() -> None:
    """It is taken out after its budget is spent; all complete on the other one."""
    world = ready(replicas=2)
    world.workers[0].poison = {number: Poison("crash") for number in range(200)}
    clients = [world.submit([n, n, n], 30, stops=(), reuse=False) for n in range(12)]
    world.settle()
    assert all(client.tokens == client.expected for client in clients)
    assert world.failures <= 16


def test_a_lone_replica_that_fails_whatever_it_is_given_ends_its_requests_with_the_reason_and_is_tried_again() -> None:
    world = ready()
    world.workers[0].poison = {number: Poison("crash") for number in range(1000)}
    clients = [world.submit([n, n, n], 30, stops=(), reuse=False) for n in range(40)]
    world.settle()
    assert all(condemned(client) for client in clients)
    assert world.failures <= 16 + 4 * MOST_ASIDE
    assert any(isinstance(action, e.ReplicaFailed) for action in world.history)
    refused = world.submit([1, 2, 3], 4, stops=())
    assert refused.refused is not None
    assert refused.refused.code == "not_ready"
    world.workers[0].poison.clear()
    for _ in range(700):
        world.tick()
    late = world.submit([1, 2, 3], 4, stops=())
    world.settle()
    assert late.tokens == late.expected


def test_deaths_that_are_nobodys_fault_condemn_nobody_as_long_as_they_get_on() -> None:
    """A long prompt, killed again and again before its first token: each time it got a little further."""
    world = ready(step_tokens=8, context=200, capacity=200)
    client = world.submit([n % 30 for n in range(150)], 4, stops=())
    for _ in range(12):
        for _ in range(5):
            world.turn(1)
        world.restart(0)
    world.settle()
    assert client.tokens == client.expected


def test_a_suspect_that_is_aborted_is_forgotten() -> None:
    world = ready()
    bad, good = world.submit([6, 6, 6], 8, stops=()), world.submit([7, 7, 7], 8, stops=())
    poison(world, bad)
    while bad.submit.request not in {
        r.id for r in world.core.state.requests.values() if r.standing is Standing.DETAINED
    }:
        world.turn(1)
    world.abort(bad)
    world.settle()
    assert good.tokens == good.expected
    assert not world.core.state.suspects.any


def test_several_of_them_in_a_row_do_not_use_up_what_a_lone_replica_may_fail() -> None:
    """Nobody in between shows that it works: those who failed alone wait until the last was tried."""
    world = ready(slots=1)
    bad = [world.submit([number], 8, stops=(), reuse=False) for number in range(MOST_ASIDE)]
    for client in bad:
        poison(world, client, "crash", None)
    good = world.submit([9], 8, stops=(), reuse=False)
    world.settle()
    assert all(condemned(client) for client in bad)
    assert good.tokens == good.expected


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from(("", "", *KINDS)), min_size=1, max_size=6),
    positions=st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=6, max_size=6),
    lengths=st.lists(st.integers(1, 20), min_size=6, max_size=6),
    replicas=st.integers(1, 2),
    slots=st.integers(1, 6),
    step_tokens=st.sampled_from([6, 16, 64]),
    capacity=st.sampled_from([14, 40, 120]),
    reuse=st.booleans(),
    pauses=st.lists(st.integers(0, 6), min_size=6, max_size=6),
)
def test_any_number_of_them_in_any_batch(
    kinds: list[str],
    positions: list[int | None],
    lengths: list[int],
    replicas: int,
    slots: int,
    step_tokens: int,
    capacity: int,
    reuse: bool,
    pauses: list[int],
) -> None:
    """Every innocent completes with its tokens, every other ends with exactly one error, failures are bounded."""
    world = ready(replicas=replicas, slots=slots, step_tokens=step_tokens, capacity=capacity)
    clients, bad = [], []
    for number, kind in enumerate(kinds):
        prompt = [1, 2, 3, 4, number][-lengths[number] :] + [number] * max(0, lengths[number] - 5)
        client = world.submit(prompt, 8, stops=(), reuse=reuse)
        clients.append(client)
        if kind:
            position = None if kind == "open" else positions[number]
            poison(world, client, kind, position)
            # What is found in the prefix cache is not computed, and does no harm.
            if position is None or (4 if reuse else 0) <= position < len(prompt) + len(client.expected) - 1:
                bad.append(client)
        world.turn(pauses[number])
    world.settle()
    for client in clients:
        if client in bad:
            assert condemned(client)
        elif client.submit.request not in world.workers[0].poison or not condemned(client):
            assert client.tokens == client.expected
    assert world.failures <= len(world.workers[0].poison) * (bound(min(slots, len(kinds))) + 2)
    world.check_done()
