"""Too much work: who waits, who passes, who gives way, who is refused."""

from __future__ import annotations

from simulated import Client, World

from scheduler.core.gate import DrainRate


def ready(**settings: object) -> World:
    world = World(**settings)  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def admitted(world: World) -> list[int]:
    return [request for request, kind in world.notes if kind == "admitted"]


def ids(*clients: Client) -> list[int]:
    return [client.submit.request for client in clients]


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    world = ready(slots=1, queue_requests=2, capacity=60)
    clients = [world.submit([n, 2, 3], 4, reuse=False) for n in range(5)]
    refused = [client.refused for client in clients if client.refused is not None]
    assert [r.code for r in refused] == ["overloaded", "overloaded"]
    assert refused[0].retry_after_s >= 1
    world.settle()
    world.check_done()


def test_the_queue_is_bounded_by_tokens_too_but_takes_one_long_prompt_when_empty() -> None:
    world = ready(slots=1, queue_tokens=20, capacity=60)
    world.submit([1], 20, reuse=False)
    long, more = world.submit([2] * 30, 2, reuse=False), world.submit([3] * 5, 2, reuse=False)
    assert long.accepted
    assert more.refused is not None
    assert more.refused.code == "overloaded"


def test_what_was_accepted_before_a_restart_is_taken_again_whatever_the_queue() -> None:
    world = ready(slots=1, queue_requests=1, capacity=60)
    for n in range(2):
        world.submit([n, 2, 3], 6, stops=(), reuse=False)
    back = world.submit([9, 9], 4, stops=(), reuse=False)
    assert back.refused is not None
    back.refused = None
    back.tokens = back.expected[:1]
    world.resubmit(back)
    assert back.accepted
    world.settle()
    assert back.tokens == back.expected


def test_a_prompt_that_no_pool_could_hold_is_refused_at_once() -> None:
    world = ready(capacity=5, context=100)  # 20 tokens
    too_long, fits = world.submit(list(range(21)), 1), world.submit(list(range(20)), 8)
    assert too_long.refused is not None
    assert too_long.refused.code == "too_long"
    world.settle()
    assert len(fits.tokens) == 1


def test_a_deadline_that_cannot_be_met_is_refused_and_one_that_passes_ends_the_request() -> None:
    world = ready(slots=1, capacity=60)
    late = world.submit([1, 2], 4, deadline_ns=world.now - 1)
    assert late.refused is not None
    assert late.refused.code == "deadline"
    world.submit([1, 2], 20, stops=(), reuse=False)
    waits = world.submit([3, 4], 4, deadline_ns=world.now + 60_000_000)
    world.tick(0.1)
    assert waits.finished is not None
    assert waits.finished.reason == "abort"


def test_lower_priority_numbers_run_earlier_and_age_catches_up() -> None:
    world = ready(slots=1, capacity=60)
    world.submit([1, 2], 3, stops=(), reuse=False)
    patient = world.submit([2, 2], 3, priority=1, reuse=False)
    urgent = world.submit([3, 2], 3, priority=0, reuse=False)
    world.tick(6.0)  # more than a step of priority is worth
    newcomer = world.submit([4, 2], 3, priority=0, reuse=False)
    world.settle()
    assert admitted(world)[1:] == ids(urgent, patient, newcomer)


def test_a_small_request_may_pass_one_that_does_not_fit_but_not_for_ever() -> None:
    world = ready(slots=3, capacity=12, context=48, queue_requests=100)
    running = world.submit([1] * 16, 8, stops=(), reuse=False)
    big = world.submit([2] * 40, 4, stops=(), reuse=False)
    small = [world.submit([3, n % 30], 2 + n % 5, stops=(), reuse=False) for n in range(90)]
    world.settle()
    order = admitted(world)
    assert order[0] == running.submit.request
    passed = order.index(big.submit.request) - 1
    assert 0 < passed <= 18
    assert all(client.finished for client in small)


def test_when_pages_run_out_the_youngest_gives_way_and_loses_nothing() -> None:
    world = ready(slots=3, capacity=10, context=40)
    old = world.submit([1] * 6, 24, stops=(), reuse=False)
    world.tick()
    young = world.submit([2] * 6, 24, stops=(), reuse=False)
    world.settle()
    world.check_done()
    assert old.finished is not None
    assert young.finished is not None
    assert (old.finished.preemptions, young.finished.preemptions > 0) == (0, True)


def test_preemption_makes_admission_careful_and_calm_makes_it_bold_again() -> None:
    world = ready(slots=3, capacity=10, context=40)
    calm = world.core.state.reserve
    for n in (1, 2):
        world.submit([n] * 6, 24, stops=(), reuse=False)
    highest = calm
    for _ in range(400):
        while world.kv_turn():
            pass
        world.worker_turn(0)
        highest = max(highest, world.core.state.reserve)
    assert highest > calm
    for n in range(400):
        world.submit([n % 30], 1, reuse=False)
        world.settle()
    assert world.core.state.reserve < calm


def test_a_lone_request_waits_for_pages_that_somebody_else_has() -> None:
    world = ready(capacity=12, context=40)
    world.kv.hidden = 9
    client = world.submit([1] * 6, 24, stops=(), reuse=False)
    for _ in range(20):
        while world.kv_turn() or world.worker_turn(0):
            pass
        world.tick(0.05)
    assert client.finished is None
    world.kv.hidden = 0
    world.settle()
    assert client.tokens == client.expected


def test_free_pages_beyond_need_go_back_to_kv() -> None:
    world = ready(slots=8, capacity=100, context=64, extent=2)
    for n in range(8):
        world.submit([n] * 40, 4, reuse=False)
    world.settle()
    world.tick()
    while world.kv_turn():
        pass
    assert world.core.state.pool.free <= 8


def test_the_least_loaded_replica_takes_the_next() -> None:
    world = ready(replicas=2, slots=2, capacity=60)
    for n in range(4):
        world.submit([n, 1, 2], 8, stops=(), reuse=False)
    assert [replica.running for replica in world.core.state.replicas.values()] == [2, 2]


def test_drain_rate_tells_how_long_to_wait() -> None:
    rate = DrainRate()
    assert rate.retry_after_s(1, 0, 0) == 1
    now = 0
    for _ in range(40):  # two requests of 100 tokens a second
        now += 500_000_000
        rate.left(100, now)
    assert 4 <= rate.seconds_for(10, 0, now) <= 9
    assert 4 <= rate.seconds_for(0, 1000, now) <= 9
    assert rate.retry_after_s(10_000, 0, now) == 60


def test_an_arena_that_is_full_of_what_others_hold_makes_requests_wait_and_nobody_spins() -> None:
    """A minute without a page: kv is asked ten times a second, those who wait take turns, no plan is made."""
    world = ready(capacity=40, slots=4)
    world.kv.hidden = 40
    while world.core.state.pool.free:  # what was leased ahead
        world.core.state.pool.release(world.core.state.pool.take(1)[0])
    clients = [world.submit([n, 2, 3], 6, stops=(), reuse=False) for n in range(6)]
    while world.kv_turn():
        pass
    acted, plans = world.acted, len(world.plans)
    for _ in range(1200):
        world.tick(0.05)
        while world.kv_turn():
            pass
    assert world.acted - acted <= 60 * 20
    assert len(world.plans) == plans
    assert all(client.accepted and not client.ended for client in clients)
    world.kv.hidden = 0
    world.settle()
    world.check_done()
