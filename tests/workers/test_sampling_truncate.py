"""Candidates of top-k, top-p and min-p against the definitions, and that the short way and the long way agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.sampling.order import best_first
from workers.sampling.truncate import Truncation, candidates


def of(logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> list[int]:
    """Candidates of one row, best first."""
    truncation = Truncation(torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64), torch.tensor([min_p]))
    found = candidates(logits.unsqueeze(0), truncation)
    return [int(token) for token, value in zip(found.ids[0], found.logits[0], strict=True) if value > -torch.inf]


def reference(logits: torch.Tensor, top_k: int, top_p: float, min_p: float) -> list[int]:
    values = logits.double().numpy()
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if min_p:
        order = [token for token in order if values[token] >= values.max() + np.log(min_p)]
    if top_k:
        order = order[:top_k]
    mass = np.exp(values[order])
    mass /= mass.sum()
    before = np.cumsum(mass) - mass
    return [token for rank, token in enumerate(order) if rank == 0 or top_p >= 1 or before[rank] < top_p]


@settings(max_examples=200, deadline=None)
@given(
    vocabulary=st.sampled_from([2, 50, 256, 257, 900]),
    spread=st.sampled_from([0.0, 0.3, 3.0]),
    ties=st.booleans(),
    top_k=st.sampled_from([0, 1, 2, 49, 255, 256, 257, 700]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.123, 0.0]),
    min_p=st.sampled_from([0.0, 1e-4, 0.05, 0.9]),
    seed=st.integers(0, 10_000),
)
def test_candidates_equal_the_definition(
    vocabulary: int, spread: float, ties: bool, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """Flat rows reach beyond the head that is looked at first, steep ones end inside it: the answer is one."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    if ties:
        logits = logits.round()
    found, expected = of(logits, top_k, top_p, min_p), reference(logits, top_k, top_p, min_p)
    # The definition's sums round too: allow the nucleus to end one token earlier or later.
    shorter = min(len(found), len(expected))
    assert found[:shorter] == expected[:shorter]
    assert abs(len(found) - len(expected)) <= (1 if 0 < top_p < 1 else 0)


def test_top_k_keeps_exactly_k_of_equals() -> None:
    assert of(torch.zeros(1000), top_k=3) == [0, 1, 2]
    assert of(torch.zeros(1000), top_k=500) == list(range(500))


def test_top_p_edges() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert of(logits, top_p=0.0) == [0]
    assert of(logits, top_p=0.49) == [0]
    assert of(logits, top_p=0.51) == [0, 1]
    assert of(logits, top_p=0.76) == [0, 1, 2]
    assert of(logits, top_p=1.0) == [0, 1, 2, 3]


def test_top_p_is_of_what_top_k_left() -> None:
    """[4, 3, 2, 1] / 10: 0.5 of everything is two tokens; of the best two (4/7, 3/7) it is one."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert of(logits, top_p=0.5) == [0, 1]
    assert of(logits, top_p=0.5, top_k=2) == [0]


def test_suppressed_tokens_are_no_candidates() -> None:
    logits = torch.zeros(400)
    logits[:390] = -torch.inf
    assert of(logits, top_p=0.99) == list(range(390, 400))
    assert of(logits, top_k=50) == list(range(390, 400))


@pytest.mark.parametrize("count", [1, 7, 99, 100])
def test_best_first_breaks_ties_by_id_and_orders_negative_numbers(count: int) -> None:
    logits = (torch.randn(3, 100, generator=torch.Generator().manual_seed(1)) * 3).round()
    for row, ids in zip(logits, best_first(logits, count), strict=True):
        assert ids.tolist() == sorted(range(100), key=lambda token: (-float(row[token]), token))[:count]
