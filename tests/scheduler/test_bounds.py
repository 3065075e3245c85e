"""Why a step has no more in it: each bound in a world where it is the reason, and what holds of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Poison, World

from bus.messages.steps import StepResult
from bus.messages.vitals import StepBound, StepLine
from bus.packed import unpack_u32
from scheduler.core.bounds import CHUNKS_SHOWN
from scheduler.core.steplog import RECORDED, PlanRecord, StepRecords

MS = 1_000_000


def ready(**settings: object) -> World:
    world = World(**({"capacity": 300, "context": 64, "extent": 32, "step_tokens": 64} | settings))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def lines(world: World) -> tuple[StepLine, ...]:
    return world.core.steps.since(0)


def bounds(world: World) -> set[StepBound]:
    return {line.bound for line in lines(world)}


# --- one at a time ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_where_all_that_is_wanted_fits_more_demand_would_fill_the_step(prompts: list[int]) -> None:
    world = ready(slots=3)
    for size in prompts:
        world.submit(list(range(size)), 4, reuse=False)
    world.settle()
    assert bounds(world) == {"demand"}


@given(st.integers(1, 2), st.integers(1, 5))
def test_somebody_waits_for_a_slot(slots: int, more: int) -> None:
    world = ready(slots=slots)
    for _ in range(slots + more):
        world.submit([1, 2, 3], 6, stops=(), reuse=False)
    world.settle()
    # The first was alone when its first steps were planned; the last have nobody behind them.
    assert {(line.waiting > 0, line.bound) for line in lines(world)} == {(True, "slots"), (False, "demand")}


@given(st.integers(17, 60))
def test_a_prompt_is_longer_than_a_step(size: int) -> None:
    world = ready(step_tokens=16)
    world.submit(list(range(size)), 2, stops=(), reuse=False)
    world.settle()
    said = lines(world)
    assert [line.bound for line in said[: (size - 1) // 16]] == ["token_budget"] * ((size - 1) // 16)
    assert said[-1].bound == "demand"
    assert [line.prefill_tokens for line in said if line.bound == "token_budget"] == [16] * ((size - 1) // 16)


def test_a_prompt_is_cut_so_that_others_keep_their_pace() -> None:
    """A worker that takes 1 ms and 10 us a token (see `Worker.execute`), and a target of 1.3 ms."""
    world = ready(slots=8, context=200, inter_token_target_ns=1.3 * MS)
    world.submit([1, 2], 150, stops=(), reuse=False)
    for n in range(12):
        world.submit(list(range(1, 10 + n)), 2, stops=(), reuse=False)
        world.turn(6)
    before = world.core.steps.total
    world.submit(list(range(150)), 2, reuse=False)
    world.turn(6)
    cut = [line for line in world.core.steps.since(before) if line.bound == "inter_token_target"]
    assert cut
    assert all(0 < line.prefill_tokens < 63 and line.decodes and line.predicted_ns <= 1.31 * MS for line in cut)


@given(st.integers(6, 10))
def test_pages_are_short(capacity: int) -> None:
    """Each wants 6 pages in the end, and there are not two of these."""
    world = ready(slots=3, capacity=capacity, context=24)
    for _ in range(2):
        world.submit([1, 2, 3, 4], 20, stops=(), reuse=False)
    world.settle()
    assert "kv_pages" in bounds(world)
    assert all(line.bound == "kv_pages" for line in lines(world) if line.starved)


def test_somebody_waits_for_a_prefix_that_another_computes() -> None:
    world = ready(slots=3, step_tokens=16)
    for _ in range(2):
        world.submit(list(range(40)), 2, stops=())
    world.turn(3)
    assert world.core.state.requests
    world.settle()
    assert [line.bound for line in lines(world)[:2]] == ["token_budget", "token_budget"]
    assert "prefix" in bounds(world)


def test_those_under_suspicion_run_apart() -> None:
    world = ready(slots=3)
    bad = world.submit([9, 9], 20, stops=(), reuse=False)
    world.submit([1, 2, 3], 20, stops=(), reuse=False)
    world.workers[0].poison[bad.submit.request] = Poison("unnamed", 5)
    world.settle()
    assert "trial" in bounds(world)


def test_a_worker_that_ran_out_of_memory_gets_small_steps() -> None:
    world = ready(step_tokens=64)
    world.workers[0].memory = 40
    world.submit(list(range(60)), 2, stops=(), reuse=False)
    world.settle()
    assert next(line.bound for line in lines(world)) == "memory"
    assert all(line.prefill_tokens <= 32 for line in lines(world))


# --- of all of them --------------------------------------------------------------------------------------------------


def steps_of(world: World) -> Iterator[tuple[int, int]]:
    """(rows, tokens) of every plan that has rows, as it was sent."""
    for plan in world.plans:
        counts = unpack_u32(plan.counts).tolist()
        if counts:
            yield len(counts), sum(counts)


REQUESTS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=10)


@settings(max_examples=60)
@given(REQUESTS, st.integers(1, 4), st.integers(16, 40), st.integers(14, 60), st.sampled_from([0.0, 1.2 * MS]))
def test_what_is_said_of_a_step_is_what_was_in_it(
    requests: list[tuple[int, int, int]], slots: int, step_tokens: int, capacity: int, target_ns: float
) -> None:
    world = ready(slots=slots, step_tokens=step_tokens, capacity=capacity, inter_token_target_ns=target_ns)
    for prompt, tokens, turns in requests:
        world.submit(list(range(prompt)), tokens, reuse=prompt % 2 == 0)
        world.turn(turns)
    world.settle()
    said = lines(world)
    assert [(line.rows, line.decodes + line.prefill_tokens) for line in said] == list(steps_of(world))
    for line in said:
        assert line.rows == line.decodes + line.chunk_count
        assert len(line.chunks) == min(line.chunk_count, CHUNKS_SHOWN)
        assert sum(count for _, count in line.chunks) == line.prefill_tokens
        assert {request for request, _ in line.chunks} <= world.clients.keys()
        if line.bound == "demand":
            assert not line.waiting
            assert not line.starved
        if line.bound in ("slots", "prefix"):
            assert line.waiting
        if line.starved:
            assert line.bound == "kv_pages"
        if line.bound == "inter_token_target":
            assert target_ns
            assert line.decodes


# --- the record ------------------------------------------------------------------------------------------------------


def record(planned_ns: int, *, behind: bool, bound: StepBound = "demand") -> PlanRecord:
    return PlanRecord(planned_ns, 5, 900, behind, 1, 1, 0, 0, (), 0, 0, bound)


def result(step: int, ran_ns: int, waited_ns: int = 0) -> StepResult:
    return StepResult(step, b"", b"", waited_ns, ran_ns)


@pytest.mark.parametrize(
    ("behind", "waited_ns", "bound"),
    [(True, 51, "pipeline"), (True, 49, "slots"), (False, 5000, "slots")],
    ids=["waited though it was ready", "hardly waited", "there was nothing to do"],
)
def test_a_worker_that_waits_for_a_plan_that_is_ready_is_held_up_on_the_way(
    behind: bool, waited_ns: int, bound: StepBound
) -> None:
    records = StepRecords()
    records.done(0, record(100, behind=behind, bound="slots"), result(1, 1000, waited_ns), 1200 + waited_ns, 7)
    assert [line.bound for line in records.since(0)] == [bound]


def test_what_neither_side_computed_is_between_them() -> None:
    records = StepRecords()
    records.done(0, record(100, behind=False), result(1, 1000, 9_999), 1300, 7)  # sent, on the way, back: 200 in all
    records.done(0, record(150, behind=True), result(2, 1000), 2350, 7)  # the results came 1050 apart
    records.done(1, record(0, behind=False), result(1, 400), 450, 7)  # another replica has a time of its own
    records.done(0, None, result(3, 0), 2400, 7)  # a barrier
    assert [(line.replica, line.gather_ns) for line in records.since(0)] == [(0, 200), (0, 50), (1, 50)]
    assert records.total == 3


@given(st.integers(0, 3 * RECORDED), st.data())
def test_a_reader_gets_each_step_once_and_only_so_many(count: int, data: st.DataObject) -> None:
    records, seen, got = StepRecords(), 0, list[int]()
    for step in range(1, count + 1):
        records.done(0, record(step, behind=False), result(step, 1), step, 0)
        if data.draw(st.booleans()) and step - seen <= RECORDED:
            got += [line.step for line in records.since(seen)]
            seen = records.total
    if count - seen <= RECORDED:
        got += [line.step for line in records.since(seen)]
        assert got == list(range(1, count + 1))
    assert len(records.since(0)) == min(count, RECORDED)
