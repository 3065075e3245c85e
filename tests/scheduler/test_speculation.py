"""How many drafts rows may have: what brings most, and never so many that a step without any would bring more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import World

from bus.packed import unpack_u32
from scheduler.core.speculation import MARGIN, PROBE_AFTER, TOGETHER, Speculation, best_drafts

rates = st.lists(st.floats(0.02, 0.98), min_size=1, max_size=3)


def worth(rates: np.ndarray, drafts: np.ndarray, plain_ns: float, draft_ns: float) -> float:
    """Expected tokens per ns."""
    gained = (rates * (1 - rates**drafts) / (1 - rates)).sum()
    return float((len(rates) + gained) / (plain_ns + draft_ns * drafts.sum()))


@given(rates, st.integers(0, 5), st.floats(1e6, 1e8), st.floats(0.001, 2.0))
def test_no_other_number_of_drafts_is_much_better(each: list[float], most: int, plain_ns: float, part: float) -> None:
    """Against all combinations, with the margin taken for what a draft costs."""
    accepted, draft_ns = np.array(each), part * plain_ns
    chosen = best_drafts(accepted, np.full(len(each), most), plain_ns, draft_ns)
    best = max(
        worth(accepted, np.array(drafts), plain_ns, MARGIN * draft_ns)
        for drafts in itertools.product(range(most + 1), repeat=len(each))
    )
    assert worth(accepted, chosen, plain_ns, MARGIN * draft_ns) >= 0.97 * best
    assert worth(accepted, chosen, plain_ns, draft_ns) >= worth(accepted, 0 * chosen, plain_ns, draft_ns)


class Worker:
    """Steps that take a + b rows + c drafts, with noise; drafts are right at some rate, where there are any."""

    def __init__(self, acceptance: float, found: float, parts: tuple[float, float, float], seed: int) -> None:
        self.acceptance, self.found, self.parts = acceptance, found, parts
        self.random = np.random.default_rng(seed)

    def ns(self, rows: int, drafted: int) -> float:
        always, row, draft = self.parts
        return 1e6 * (always + row * rows + draft * drafted)

    def run(self, rows: int, steps: int, most: int) -> float:
        """Tokens per ns, noise left out."""
        speculation, slots = Speculation(rows, most), np.arange(rows)
        tokens, spent = 0.0, 0.0
        for _ in range(steps):
            allowed = speculation.choose(slots, np.full(rows, 64), 512, 0.0)
            drafted = np.where(self.random.random(rows) < self.found, allowed, 0)
            right = self.random.random((rows, most + 1)) < self.acceptance
            accepted = np.minimum(right.cumprod(axis=1).sum(axis=1), drafted)
            ns = self.ns(rows, int(drafted.sum()))
            speculation.landed(slots, drafted, accepted)
            speculation.observe(rows, int(drafted.sum()), int(ns * self.random.uniform(0.93, 1.07)), 0)
            tokens, spent = tokens + rows + float(accepted.sum()), spent + ns
        return tokens / spent


@settings(max_examples=60)
@given(
    st.integers(1, 32), st.floats(0.0, 1.0), st.floats(0.1, 1.0), st.floats(0.0, 3.0), st.floats(0.02, 3.0),
    st.integers(0, 2**32),
)  # fmt: skip
def test_drafts_never_cost_more_than_three_percent(
    rows: int, acceptance: float, found: float, row: float, draft: float, seed: int
) -> None:
    """Whatever they cost and however often they are right, at any batch, over answers of some hundred tokens."""
    worker = Worker(acceptance, found, (10.0, row, draft), seed)
    assert worker.run(rows, 400, 12) >= 0.97 * rows / worker.ns(rows, 0)


def test_drafts_that_are_right_and_cost_little_are_made() -> None:
    worker = Worker(0.9, 1.0, (10.0, 1.0, 1.0), 1)
    assert worker.run(1, 400, 12) > 2.5 / worker.ns(1, 0)


def test_a_row_whose_drafts_are_wrong_is_asked_now_and_then() -> None:
    speculation, slots = Speculation(1, 8), np.arange(1)
    given: list[int] = []
    for _ in range(400):
        (drafts,) = speculation.choose(slots, np.array([64]), 512, 0.0).tolist()
        given.append(drafts)
        speculation.landed(slots, np.array([drafts]), np.array([0]))
        speculation.observe(1, drafts, 10_000_000 + 3_000_000 * drafts, 0)
    late = given[100:]
    assert 2 <= sum(late) <= 300 / PROBE_AFTER + 1
    assert max(late) == 1


def test_limits_are_kept() -> None:
    speculation, slots = Speculation(16, 12), np.arange(16)
    speculation._cost._seen = 100  # drafts cost nothing, as far as it knows
    assert speculation.choose(slots, np.full(16, 3), 512, 0.0).sum() == 2  # and so it begins with few
    speculation._largest = 100
    assert speculation.choose(slots, np.full(16, 3), 512, 0.0).max() == 3
    assert speculation.choose(slots, np.full(16, 64), 512, 0.0).sum() <= TOGETHER
    assert speculation.choose(slots, np.full(16, 64), 5, 0.0).sum() <= 5
    assert speculation.choose(slots, np.full(16, -1), 512, 0.0).sum() == 0
    assert Speculation(16, 0).choose(slots, np.full(16, 64), 512, 0.0).sum() == 0


def test_nothing_is_drafted_before_it_is_known_what_steps_take() -> None:
    assert Speculation(1, 8).choose(np.arange(1), np.array([64]), 512, 0.0).sum() == 0


@pytest.mark.parametrize("drafts", [0, 1, 5])
def test_answers_are_the_same_with_any_number_of_drafts(drafts: int) -> None:
    """And steps are fewer, the more of them are right."""
    world = World(slots=3, drafts=drafts, context=64, capacity=60)
    world.start()
    for number in range(3):
        world.submit([5, 6, number], 40)
    world.settle()
    world.check_done()
    assert bool(world.drafted) == bool(drafts)
    assert all(plan.drafts == b"" for plan in world.plans) == (not drafts)


def test_a_page_is_taken_for_drafts_only_where_there_are_plenty() -> None:
    """Nobody is preempted for drafts: with hardly a page to spare, as many requests give way as without."""
    preempted = []
    for drafts in (0, 6):
        world = World(slots=3, drafts=drafts, context=48, capacity=14)
        world.start()
        clients = [world.submit([7, 8, 9, number], 30) for number in range(3)]
        world.settle()
        world.check_done()
        preempted.append(sum(client.finished.preemptions for client in clients if client.finished))
    assert preempted[1] <= preempted[0] + 1


def test_plans_say_where_rows_begin_at_least() -> None:
    """With drafts in flight the next row's place is not known; it is told as the least, and that it is."""
    world = World(slots=1, drafts=4, context=64, capacity=60)
    world.start()
    world.submit([1, 2, 3], 30)
    world.settle()
    inexact = [plan for plan in world.plans if plan.drafts]
    assert inexact
    assert all(len(plan.drafts) == len(unpack_u32(plan.slots)) for plan in inexact)
