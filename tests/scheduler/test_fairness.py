"""Tenants in turn, and batch behind everybody: shown on the core, with workers that count what they compute."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Client as Asked
from simulated import World

from bus.packed import unpack_u32
from scheduler.core.fairness import DRAWN_TOKEN, RESTING, Client, Counters


def ready(**settings: object) -> World:
    world = World(**settings)  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def served(world: World) -> dict[str, float]:
    """Virtual tokens by tenant, from what clients were given: prompts that were begun, and drawn tokens."""
    total: Counter[str] = Counter()
    begun = {request for request, kind in world.notes if kind == "admitted"}
    for client in world.clients.values():
        if client.submit.request in begun:
            total[client.submit.tenant] += len(client.submit.prompt) // 4 + DRAWN_TOKEN * len(client.tokens)
    return total


def waits(world: World, tenant: str) -> bool:
    begun = {request for request, kind in world.notes if kind == "admitted"}
    return any(
        client.submit.tenant == tenant and client.submit.request not in begun for client in world.clients.values()
    )


PROMPT, MOST = 6, 8
LARGEST = PROMPT + DRAWN_TOKEN * MOST


@settings(max_examples=40, deadline=None)
@given(
    a=st.lists(st.tuples(st.integers(1, PROMPT), st.integers(1, MOST)), min_size=8, max_size=30),
    b=st.lists(st.tuples(st.integers(1, PROMPT), st.integers(1, MOST)), min_size=4, max_size=15),
    slots=st.integers(1, 4),
    weight=st.sampled_from([1.0, 2.0]),
)
def test_two_that_always_wait_stay_close_however_much_one_of_them_sends(
    a: list[tuple[int, int]], b: list[tuple[int, int]], slots: int, weight: float
) -> None:
    world = ready(slots=slots, capacity=400, queue_requests=200)
    for length, most in a:
        world.submit([1] * length, most, stops=(), reuse=False, tenant="a")
    for length, most in b:
        world.submit([2] * length, most, stops=(), reuse=False, tenant="b", weight=weight)
    begun = served(world)  # what the first had got before the other came
    while waits(world, "a") and waits(world, "b"):
        apart = (served(world)["a"] - begun.get("a", 0.0)) - (served(world)["b"] - begun.get("b", 0.0)) / weight
        # Theorem 4.4 of the paper: twice the larger of one request's prompt and what all slots hold.
        assert abs(apart) <= 2 * max(PROMPT, slots * LARGEST)
        world.turn(1)
    world.settle()
    world.check_done()


def test_a_tenant_that_comes_late_does_not_wait_for_all_that_was_there_before() -> None:
    world = ready(slots=1, capacity=400, queue_requests=200)
    flood = [world.submit([1, n], 4, stops=(), reuse=False, tenant="flood") for n in range(30)]
    world.turn(8)
    late = world.submit([2, 2], 4, stops=(), reuse=False, tenant="late")
    while late.finished is None:
        world.turn(1)
    assert sum(client.finished is not None for client in flood) < 8
    world.settle()
    world.check_done()


def test_who_was_away_has_saved_nothing_up() -> None:
    world = ready(slots=1, capacity=400, queue_requests=200)
    for n in range(30):
        world.submit([1, n], 4, stops=(), reuse=False, tenant="a")
        world.submit([3, n], 4, stops=(), reuse=False, tenant="c")
    world.turn(60)
    b = [world.submit([2, n], 4, stops=(), reuse=False, tenant="b") for n in range(10)]
    before = served(world)
    while sum(client.finished is not None for client in b) < 5:
        world.turn(1)
    gained = served(world)["a"] - before["a"]
    assert gained >= 3 * (2 + DRAWN_TOKEN * 4)  # it went on getting its third


def test_priority_orders_those_of_one_tenant_and_nobody_elses() -> None:
    world = ready(slots=1, capacity=60)
    world.submit([1, 2], 3, stops=(), reuse=False, tenant="a")
    world.submit([2, 2], 3, stops=(), reuse=False, tenant="a", priority=-1000)
    other = world.submit([3, 2], 3, stops=(), reuse=False, tenant="b")
    world.settle()
    begun = [request for request, kind in world.notes if kind == "admitted"]
    assert begun[1] == other.submit.request


def running(world: World) -> set[int]:
    return {r.id for replica in world.core.state.replicas.values() for r in replica.requests if r is not None}


def numbers(*clients: Asked) -> set[int]:
    return {client.submit.request for client in clients}


def test_batch_gives_up_its_slots_as_soon_as_anybody_waits_and_loses_no_token() -> None:
    world = ready(slots=2, capacity=100)
    batch = [world.submit([1, n], 20, stops=(), batch=True) for n in range(2)]
    world.turn(6)
    assert running(world) == numbers(*batch)
    planned = len(world.plans)
    urgent = [world.submit([2, n], 4, stops=()) for n in range(2)]
    assert not running(world) & numbers(*batch)  # with the submission itself, not with the next result
    slots_of_batch = {slot for plan in world.plans[planned:] for slot in unpack_u32(plan.slots).tolist()}
    world.turn(3)
    assert running(world) == numbers(*urgent), slots_of_batch
    world.settle()
    world.check_done()  # every token is the one that it would have been
    assert world.core.state.tally.preemptions == 2


def test_only_as_much_batch_gives_way_as_is_needed() -> None:
    world = ready(slots=3, capacity=100)
    batch = [world.submit([1, n], 20, stops=(), batch=True) for n in range(3)]
    world.turn(4)
    urgent = world.submit([2, 2], 4, stops=())
    world.turn(3)
    assert running(world) >= numbers(urgent)
    assert len(running(world) & numbers(*batch)) == 2
    assert batch[2].submit.request not in running(world)  # the youngest
    world.settle()
    world.check_done()


def test_batch_gives_up_its_pages_too() -> None:
    world = ready(slots=4, capacity=12)  # 48 tokens
    for n in range(3):
        world.submit([1, n, *range(10)], 4, stops=(), batch=True, reuse=False)
    world.turn(6)
    urgent = world.submit(list(range(30)), 4, stops=(), reuse=False)
    assert len(running(world)) < 2  # at once, as many as it takes
    world.turn(3)
    assert running(world) >= numbers(urgent)
    world.settle()
    world.check_done()


def test_batch_waits_for_all_others_and_its_prompts_come_last_in_a_step() -> None:
    world = ready(slots=4, capacity=200, step_tokens=8)
    batch = world.submit(list(range(30)), 2, stops=(), batch=True, reuse=False)
    assert running(world) == numbers(batch)
    urgent = world.submit(list(range(8)), 2, stops=(), reuse=False)
    while not urgent.tokens:
        world.turn(1)
    assert not batch.tokens
    world.settle()
    world.check_done()


def test_batch_leaves_half_of_the_queue_to_others() -> None:
    world = ready(slots=1, queue_requests=9, capacity=60)
    batch = [world.submit([n, 2], 4, batch=True) for n in range(10)]
    assert sum(client.refused is None for client in batch) == 5
    others = [world.submit([n, 3], 4) for n in range(4)]
    assert all(client.refused is None for client in others)
    world.settle()
    world.check_done()


def test_a_weight_that_is_none_is_refused() -> None:
    world = ready(capacity=60)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        client = world.submit([1, 2], 4, weight=weight)
        assert client.refused is not None
        assert client.refused.code == "invalid"


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=200))
def test_numbers_belong_to_one_client_at_a_time(steps: list[tuple[int, bool]]) -> None:
    counters = Counters()
    mine: dict[int, list[int]] = {}
    for who, comes in steps:
        if comes:
            mine.setdefault(who, []).append(counters.enter(Client(str(who), False), 1.0))
        elif mine.get(who):
            counters.leave(mine[who].pop())
        held = {who: set(numbers) for who, numbers in mine.items() if numbers}
        assert all(len(numbers) == 1 for numbers in held.values())
        assert len(set().union(*held.values())) == len(held)


def test_those_who_have_gone_are_forgotten_in_the_end() -> None:
    counters = Counters()
    for number in range(10 * RESTING):
        counters.leave(counters.enter(Client(str(number), False), 1.0))
    assert len(counters) <= RESTING
    assert len(counters.served) <= 4 * RESTING
