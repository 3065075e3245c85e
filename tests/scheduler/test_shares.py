"""What a step cost, split over those who were in it: whole, and in proportion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import CORES, World

from scheduler.core.cost import CostModel
from scheduler.core.shares import split, weigh

WEIGHTS = st.lists(st.floats(0, 1e9, allow_subnormal=False), min_size=1, max_size=300)


@given(total=st.integers(0, 2**50), weights=WEIGHTS)
def test_the_parts_are_whole_and_make_the_step_exactly(total: int, weights: list[float]) -> None:
    parts = split(total, np.array(weights))
    assert parts.dtype == np.int64
    assert len(parts) == len(weights)
    assert int(parts.min()) >= 0
    assert int(parts.sum()) == total


@given(total=st.integers(0, 2**45), weights=st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_a_part_is_its_share_to_the_nanosecond(total: int, weights: list[float]) -> None:
    parts, whole = split(total, np.array(weights)), sum(weights)
    for part, weight in zip(parts.tolist(), weights, strict=True):
        assert abs(part - total * weight / whole) <= 1.0 + total * 1e-12


def taught() -> CostModel:
    """A step is 1 ms, 10 us a token and 1 ns a pair."""
    cost = CostModel()
    for n in range(200):
        tokens, pairs = 1 + 37 * n % 500, float(1000 * (n * n % 97))
        cost.observe(tokens, pairs, int(1e6 + 1e4 * tokens + pairs))
    return cost


def test_rows_pay_for_tokens_for_context_and_alike_for_what_every_step_costs() -> None:
    counts, ends = np.array([100, 1, 1]), np.array([100, 1000, 2000])
    chunk, near, far = weigh(taught(), counts, ends).tolist()
    assert chunk == pytest.approx(1e6 / 3 + 100 * 1e4 + 100 * 50, rel=0.01)
    assert near == pytest.approx(1e6 / 3 + 1e4 + 999.5, rel=0.01)
    assert far - near == pytest.approx(1000, rel=0.05)


def test_before_the_cost_model_knows_anything_tokens_decide() -> None:
    assert weigh(CostModel(), np.array([30, 10]), np.array([30, 500])).tolist() == [30.0, 10.0]


def test_prefill_and_decode_are_told_apart_and_the_account_has_both() -> None:
    world = World()
    world.start()
    client = world.submit([1, 2, 3, 4, 5], max_tokens=4, stops=())
    world.settle()
    assert client.finished is not None
    first = CORES * (1_000_000 + 10_000 * 5)
    assert client.finished.prefill_ns == first
    assert client.finished.spent_ns == first + 3 * CORES * (1_000_000 + 10_000)


def test_who_has_left_pays_nothing_more_and_the_rest_is_counted() -> None:
    world = World()
    world.start()
    client = world.submit([1, 2, 3], max_tokens=30, stops=())
    world.turn(4)
    world.abort(client)
    told = world.told_ns
    assert told > 0
    world.settle()
    assert world.told_ns == told
    assert world.core.state.tally.unclaimed_ns == world.computed_ns - told > 0
