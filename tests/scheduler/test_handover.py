"""Prefill in one replica, decode in another: who goes where, what changes hands, and what happens when either dies."""

from __future__ import annotations

import pytest
from simulated import Client, World

from bus.packed import unpack_u32
from scheduler.core import events as e

DECODE, PREFILL = 0, 1
LONG = [3 + position % 30 for position in range(40)]
OTHER = [4 + position % 29 for position in range(38)]


def pools(**settings: object) -> World:
    """Replica 0 decodes, replica 1 prefills for it."""
    world = World(**({  # type: ignore[arg-type]
        "replicas": 2, "first_prefill": 1, "straight": 8, "capacity": 300, "context": 96, "extent": 32,
    } | settings))  # fmt: skip
    world.start()
    while world.kv_turn():
        pass
    return world


def rows(world: World, replica: int) -> list[tuple[int, int]]:
    """(start, count) of every row that a replica was given."""
    found: list[tuple[int, int]] = []
    for plan in world.sent[replica]:
        found += zip(unpack_u32(plan.starts).tolist(), unpack_u32(plan.counts).tolist(), strict=True)
    return found


def computed_until(world: World, client: Client, position: int) -> None:
    """Let the prefill replica get so far, and no further than it must."""
    replica = world.core.state.replicas[PREFILL]
    for _ in range(100):
        while world.kv_turn():
            pass
        for slot, request in enumerate(replica.requests):
            if request is not None and request.id == client.submit.request and replica.computed[slot] >= position:
                return
        world.worker_turn(PREFILL)
    raise AssertionError("it does not get on")


def test_a_long_prompt_is_prefilled_apart_but_for_the_token_that_draws() -> None:
    world = pools()
    client = world.submit(LONG, 5, stops=())
    world.settle()
    assert rows(world, PREFILL) == [(0, 16), (16, 16), (32, 7)]
    assert rows(world, DECODE)[:2] == [(39, 1), (40, 1)]
    assert not any(any(plan.samples) for plan in world.sent[PREFILL])
    assert client.tokens == client.expected
    world.check_done()


def test_its_pages_change_hands_and_none_is_copied() -> None:
    world = pools()
    world.submit(LONG, 5, stops=())
    world.settle()
    (opened,) = [o for plan in world.sent[DECODE] for o in plan.opens]
    (begun,) = [o for plan in world.sent[PREFILL] for o in plan.opens]
    given = [page for plan in world.sent[PREFILL] for page in unpack_u32(plan.pages).tolist()]
    assert (begun.computed, opened.computed) == (0, len(LONG) - 1)
    assert unpack_u32(opened.pages).tolist() == given


def test_what_is_short_or_mostly_known_goes_straight() -> None:
    world = pools()
    world.submit(LONG[:8], 3)
    world.submit(LONG, 3, stops=())
    world.settle()
    before = len(world.sent[PREFILL])
    world.submit([*LONG, 1, 2], 3)  # all but two tokens and the rest of a block are there
    world.settle()
    assert len(world.sent[PREFILL]) - before == 0
    assert [client.tokens for client in world.clients.values()] == [c.expected for c in world.clients.values()]


def test_log_probabilities_of_a_prompt_are_one_replica_s_work() -> None:
    world = pools()
    client = world.submit(LONG, 3, prompt_logprobs=0)
    world.settle()
    assert rows(world, PREFILL) == []
    assert len(client.prompt_logprobs) == len(LONG) - 1


def test_nobody_is_prefilled_who_would_find_no_slot_to_decode_in() -> None:
    world = pools(slots=2)
    clients = [world.submit([*LONG, number], 30, stops=(), reuse=False) for number in range(5)]
    prefiller, decoder = (world.core.state.replicas[number] for number in (PREFILL, DECODE))
    for _ in range(400):
        world.turn(1)
        assert prefiller.running + decoder.running <= 2
    world.settle()
    assert all(client.tokens == client.expected for client in clients)


def test_short_ones_pass_those_who_wait_for_the_prefill_replica() -> None:
    world = pools(slots=8, step_tokens=16)
    for number in range(3):
        world.submit([*LONG, number], 4, stops=(), reuse=False)
    short = world.submit([1, 2, 3], 4, stops=())
    assert short.submit.request in {
        request.id for request in world.core.state.replicas[DECODE].requests if request is not None
    }
    world.settle()


@pytest.mark.parametrize("position", [16, 32])
def test_a_prompt_whose_prefill_replica_dies_goes_on_where_it_can(position: int) -> None:
    """Here: at the decode replica, from the blocks that were named."""
    world = pools()
    client = world.submit(LONG, 5, stops=())
    computed_until(world, client, position)
    world.kill(PREFILL)
    world.settle()
    assert rows(world, DECODE)[0][0] == position
    assert client.tokens == client.expected
    world.check_done()


def test_a_decode_replica_s_death_takes_nothing_that_was_prefilled() -> None:
    world = pools()
    client = world.submit(LONG, 20, stops=())
    for _ in range(100):
        world.turn(len(client.tokens) < 4)
    before = len(rows(world, PREFILL))
    world.kill(DECODE)
    world.settle()
    assert rows(world, PREFILL)[before][0] >= len(LONG)  # it decodes on at once, and computes no prompt again
    assert client.tokens == client.expected
    world.check_done()


def test_a_prefill_replica_decodes_where_nobody_else_does() -> None:
    world = pools()
    client = world.submit(LONG, 6, stops=())
    computed_until(world, client, 16)
    world.kill(DECODE)
    world.settle()
    assert client.tokens == client.expected
    late = world.submit(OTHER, 6, stops=())  # none of it is known, and there is one replica
    world.settle()
    assert late.tokens == late.expected
    world.check_done()


def test_a_replica_that_drains_is_handed_nothing() -> None:
    world = pools(replicas=3, first_prefill=2)
    world.do(e.ReplicaDrain(0, True))
    client = world.submit(LONG, 6, stops=())
    world.settle()
    assert world.sent[0] == []
    assert rows(world, 1)[0] == (39, 1)
    assert client.tokens == client.expected


def test_both_sides_have_the_adapter_of_what_changes_hands() -> None:
    adapter = b"a" * 16
    world = pools(adapters=1)
    world.do(e.AdapterAdded("a", "path:/a", adapter))
    world.do(e.AdapterAdded("b", "path:/b", b"b" * 16))
    first = world.submit(LONG, 5, stops=(), adapter=adapter)
    other = world.submit(OTHER, 5, stops=(), adapter=b"b" * 16)
    world.settle()
    for client in (first, other):
        assert client.tokens == client.expected
    assert rows(world, DECODE)[:2] == [(39, 1), (40, 1)], "it was handed over"
    world.check_done()
