"""Hot prefixes: the count fades by half in its time, the most used stay, and there are only so many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from simulated import World

from scheduler.core.hot import HALF_LIFE_NS, KEPT, HotPrefixes
from scheduler.core.overview import queue_classes, scheduler_view

DIGESTS = st.sampled_from([bytes([n]) * 16 for n in range(6)])


@given(st.lists(st.tuples(DIGESTS, st.integers(0, 3 * HALF_LIFE_NS)), min_size=1, max_size=60))
def test_hits_are_what_a_sum_of_halvings_says(steps: list[tuple[bytes, int]]) -> None:
    hot, now, expected = HotPrefixes(), 1, dict[bytes, float]()
    for digest, later in steps:
        now += later
        expected = {each: hits * 2.0 ** (-later / HALF_LIFE_NS) for each, hits in expected.items()}
        expected[digest] = expected.get(digest, 0.0) + 1.0
        hot.hit(digest, 64, now)
    for digest, _, hits in hot.top(10, now):
        assert abs(hits - expected[digest]) < 1e-6 * max(1.0, expected[digest])
    assert len(hot) == len(expected)


def test_the_most_used_stay_while_thousands_come_by_once() -> None:
    hot = HotPrefixes()
    for n in range(5_000):
        now = 1 + n * 1_000_000
        if n % 10 == 0:
            hot.hit(b"system prompt...", 512, now)
        hot.hit(n.to_bytes(16, "big"), 512, now)
    assert len(hot) == KEPT
    digest, known, hits = hot.top(1, now)[0]
    assert digest == b"system prompt..."
    assert known.since_ns == 1
    assert 490 < hits <= 500


def test_an_admission_that_finds_a_prefix_counts_for_it_and_who_holds_it_is_told() -> None:
    world = World(capacity=300, context=64, extent=32, step_tokens=64, slots=4)
    world.start()
    world.submit(list(range(20)), 2, stops=())
    world.settle()
    for tail in (70, 80):
        world.submit([*range(16), tail, tail + 1, tail + 2], 30, stops=())
    world.turn(12)
    view = scheduler_view(world.core.state, "scheduler@m", world.core.state.limits, world.now)
    (prefix,) = view.prefixes
    assert (prefix.tokens, prefix.refs, round(prefix.hits, 3)) == (16, 2, 2.0)
    assert view.page_tokens == 4
    assert {knob.key: knob.value for knob in view.knobs}["step_tokens"] == 64
    world.settle()


def test_queues_are_counted_by_priority() -> None:
    world = World(capacity=300, context=64, extent=32, step_tokens=64, slots=1)
    world.start()
    while world.kv_turn():
        pass
    for priority in (0, 5, 5, -2):
        world.submit([1, 2, 3], 6, stops=(), reuse=False, priority=priority)
    world.tick()
    classes = queue_classes(world.core.state, world.now)
    assert [(each.priority, each.waiting, each.running) for each in classes] == [(-2, 1, 0), (0, 0, 1), (5, 2, 0)]
    assert all((each.oldest_ns > 0) == (each.waiting > 0) for each in classes)
    world.settle()


def test_years_go_by() -> None:
    hot = HotPrefixes()
    for n in range(50):
        hot.hit(b"old" if n == 0 else b"new", 16, 1 + n * 100 * HALF_LIFE_NS)
    assert [(digest, round(hits, 9)) for digest, _, hits in hot.top(2, 1 + 49 * 100 * HALF_LIFE_NS)] == [
        (b"new", 1.0),
        (b"old", 0.0),
    ]
