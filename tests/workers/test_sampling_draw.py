"""Draws: their distribution, and that a row depends on nothing but itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.messages.requests import Sampling
from bus.packed import pack_u32, unpack_f32, unpack_u32
from workers.sampling.draw import BrokenLogits, Drawn, draw
from workers.sampling.table import SamplingTable

CPU = torch.device("cpu")
NONE = torch.empty(0, dtype=torch.int64)


def drawn(logits: torch.Tensor, samplings: list[Sampling], positions: list[int] | None = None, **history: Any) -> Drawn:
    """Draw one token per row of `logits`, each with its own parameters."""
    table = SamplingTable(len(samplings), logits.shape[-1], CPU)
    for slot, sampling in enumerate(samplings):
        table.open(slot, sampling, history.get("prompt", NONE), history.get("output", NONE))
    at = np.array(positions if positions is not None else [0] * len(samplings), np.int64)
    return draw(logits.clone(), table.rows(np.arange(len(samplings)), at))


def histogram(logits: torch.Tensor, sampling: Sampling, draws: int = 20_000) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often each token is drawn at positions 0, 1, 2, ... of one sequence."""
    table = SamplingTable(1, logits.shape[-1], CPU)
    table.open(0, sampling, NONE, NONE)
    tokens = draw(logits.repeat(draws, 1), table.rows(np.zeros(draws, np.int64), np.arange(draws))).tokens
    return np.bincount(tokens.numpy(), minlength=logits.shape[-1])


def chi_square(counts: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
    """Pearson's statistic over its degrees of freedom, cells of expectation below 5 merged."""
    expected = probabilities * counts.sum()
    small = expected < 5
    assert counts[expected == 0].sum() == 0, "a token of probability 0 was drawn"
    seen = np.append(counts[~small], counts[small].sum())
    want = np.append(expected[~small], expected[small].sum())
    keep = want > 0
    return float(((seen[keep] - want[keep]) ** 2 / want[keep]).sum() / max(keep.sum() - 1, 1))


LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(7)) * 2


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.5, seed=2),
        Sampling(temperature=3.0, seed=3),
        Sampling(temperature=1.0, seed=4, top_k=7),
        Sampling(temperature=1.0, seed=5, top_p=0.8),
        Sampling(temperature=1.3, seed=6, min_p=0.1),
        Sampling(temperature=1.3, seed=7, min_p=0.02, top_k=20, top_p=0.9),
        Sampling(temperature=1.0, seed=8, logit_bias=((3, 4.0), (9, -100.0))),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square against probabilities computed in float64 by the definitions; seeds are fixed, so is the outcome."""
    logits = LOGITS.double().numpy().copy()
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    probabilities = np.exp(logits / sampling.temperature)
    probabilities /= probabilities.sum()
    if sampling.min_p:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
        probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    if sampling.top_k:
        probabilities[order[sampling.top_k :]] = 0
        probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= sampling.top_p]] = 0
        probabilities /= probabilities.sum()
    # 49 degrees of freedom at most: 1.7 is beyond the 0.2 % quantile; fewer cells spread wider.
    limit = 1.7 if (probabilities > 0).sum() > 20 else 3.5
    assert chi_square(histogram(LOGITS, sampling), probabilities) < limit


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 300, 10_000]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, -0.2]),
    seed=st.integers(0, 2**64 - 1),
    logit_bias=st.sampled_from([(), ((5, 3.0), (7, -100.0))]),
    logprobs=st.sampled_from([-1, 0, 4]),
    min_tokens=st.sampled_from([0, 3]),
    suppress=st.just(pack_u32([1, 2])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(samplings, st.integers(0, 5000)), min_size=2, max_size=6), st.integers(0, 1000))
def test_a_row_draws_the_same_alone_and_in_any_batch(rows: list[tuple[Sampling, int]], seed: int) -> None:
    """Tokens and log probabilities, bit by bit, whatever the other rows ask for."""
    logits = torch.randn(len(rows), 1500, generator=torch.Generator().manual_seed(seed)) * 3
    logits[:, ::50] = logits[:, :1]  # ties
    prompt, output = torch.tensor([1, 2, 3, 5, 5]), torch.tensor([9, 9, 11])
    parameters, positions = [sampling for sampling, _ in rows], [position for _, position in rows]
    together = drawn(logits, parameters, positions, prompt=prompt, output=output)
    logprobs = dict(together.logprobs)
    for row, (sampling, position) in enumerate(rows):
        alone = drawn(logits[row : row + 1], [sampling], [position], prompt=prompt, output=output)
        assert int(alone.tokens[0]) == int(together.tokens[row])
        assert dict(alone.logprobs).get(0) == logprobs.get(row)


def test_the_order_of_rows_moves_with_them() -> None:
    logits = torch.randn(8, 400, generator=torch.Generator().manual_seed(0))
    parameters = [Sampling(temperature=0.2 * row, seed=row, top_k=3 * (row % 3)) for row in range(8)]
    forwards = drawn(logits, parameters).tokens
    assert torch.equal(drawn(logits.flip(0), parameters[::-1]).tokens.flip(0), forwards)


def test_the_same_seed_and_position_draw_the_same_and_others_do_not() -> None:
    logits, sampling = torch.zeros(1, 5000), Sampling(temperature=1.0, seed=99)
    assert int(drawn(logits, [sampling], [12]).tokens[0]) == int(drawn(logits, [sampling], [12]).tokens[0])
    assert len({int(drawn(logits, [sampling], [p]).tokens[0]) for p in range(20)}) > 15
    assert len({int(drawn(logits, [Sampling(temperature=1.0, seed=s)], [0]).tokens[0]) for s in range(20)}) > 15


def test_greedy_takes_the_smallest_id_among_equals() -> None:
    logits = torch.zeros(1, 100)
    logits[0, [40, 70]] = 1.0
    assert drawn(logits, [Sampling()]).tokens.tolist() == [40]


def test_a_tiny_temperature_is_greedy_instead_of_an_overflow() -> None:
    assert drawn(LOGITS.unsqueeze(0), [Sampling(temperature=1e-30)]).tokens.tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("parameters", [{"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}, {"min_p": 1.0}])
def test_truncation_to_one_token_is_greedy(parameters: dict[str, float]) -> None:
    sampling = Sampling(temperature=5.0, seed=3, **parameters)  # type: ignore[arg-type]
    for position in range(20):
        assert drawn(LOGITS.unsqueeze(0), [sampling], [position]).tokens.tolist() == [int(LOGITS.argmax())]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_name_their_rows(value: float) -> None:
    logits = torch.zeros(4, 100)
    logits[1, 99] = logits[3, 0] = value
    with pytest.raises(BrokenLogits) as caught:
        drawn(logits, [Sampling(temperature=float(row % 2)) for row in range(4)])
    assert caught.value.rows == (1, 3)


def test_a_row_whose_every_token_is_suppressed_is_broken() -> None:
    everything = Sampling(min_tokens=1, suppress=pack_u32(range(10)))
    with pytest.raises(BrokenLogits) as caught:
        drawn(torch.zeros(2, 10), [Sampling(), everything])
    assert caught.value.rows == (1,)


def test_logprobs_come_before_temperature_and_truncation_and_after_bias() -> None:
    sampling = Sampling(temperature=0.1, top_k=1, logit_bias=((3, 2.5),), logprobs=5)
    ((row, value),) = drawn(LOGITS.unsqueeze(0), [sampling]).logprobs
    biased = LOGITS.double().clone()
    biased[3] += 2.5
    expected = torch.log_softmax(biased, -1)
    assert row == 0
    assert value.chosen == pytest.approx(float(expected.max()), abs=1e-5)
    ids = unpack_u32(value.top_ids).astype(np.int64)
    assert ids.tolist() == expected.topk(5).indices.tolist()
    assert unpack_f32(value.top) == pytest.approx(expected[ids].numpy(), abs=1e-5)


def test_zero_logprobs_are_the_drawn_tokens_alone_and_minus_one_is_none() -> None:
    found = drawn(LOGITS.repeat(3, 1), [Sampling(), Sampling(logprobs=0), Sampling(logprobs=1)]).logprobs
    assert [(row, len(value.top_ids) // 4) for row, value in found] == [(1, 0), (2, 1)]
