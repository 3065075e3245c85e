"""What a grammar leaves, as ids: the same tokens, the same draws and the same log probabilities as by a mask of all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.messages.requests import Sampling
from workers.sampling import draw as drawing
from workers.sampling.banned import banned_by
from workers.sampling.draw import Rows, draw
from workers.sampling.table import SamplingTable

CPU = torch.device("cpu")


def words_of(allowed: list[bool]) -> np.ndarray:  # type: ignore[type-arg]
    padded = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    padded[: len(allowed)] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


@given(st.lists(st.booleans(), min_size=1, max_size=100), st.booleans())
def test_ids_say_what_bits_say(allowed: list[bool], beyond: bool) -> None:
    words = words_of(allowed)
    if beyond:  # tokens that no logit belongs to
        words[-1] |= np.uint32(0xFFFFFFFF << (len(allowed) - 32 * (len(words) - 1)) & 0xFFFFFFFF)
    banned = banned_by(words, len(allowed), CPU)
    assert (banned is None) == (not any(allowed))
    if banned is not None:
        logits = torch.arange(len(allowed), dtype=torch.float32)
        banned.apply(logits)
        assert logits.tolist() == [at if may else -torch.inf for at, may in enumerate(allowed)]
        assert len(banned.ids) <= -(-len(allowed) // 2)


def rows(samplings: list[Sampling], vocabulary: int) -> Rows:
    table = SamplingTable(len(samplings), vocabulary, CPU)
    nothing = torch.zeros(0, dtype=torch.int64)
    for slot, sampling in enumerate(samplings):
        table.open(slot, sampling, nothing, nothing)
    return table.rows(np.arange(len(samplings)), np.arange(5, 5 + len(samplings)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.7}, {"presence_penalty": 0.5}, {"logprobs": 4}]),
            st.sampled_from([0.0, 0.8, 2.0]), st.integers(0, 2**63), st.floats(0, 1),
        ),
        min_size=1, max_size=5,
    ),
    st.integers(0, 2**32 - 1), st.sampled_from([0, 20, 1000]),
)  # fmt: skip
def test_draws_are_those_of_all_tokens_with_the_rest_ruled_out(
    asked: list[tuple[dict[str, float], float, int, float]], noise: int, few: int
) -> None:
    vocabulary = 300
    random = np.random.default_rng(noise)
    logits = torch.from_numpy(random.standard_normal((len(asked), vocabulary)).astype(np.float32))
    samplings = [Sampling(temperature=heat, seed=seed, **more) for more, heat, seed, _ in asked]  # type: ignore[arg-type]
    masks = [random.random(vocabulary) < share for *_, share in asked]
    for mask in masks:
        mask[random.integers(vocabulary)] = True
    expected_of = logits.clone()
    for row, mask in enumerate(masks):
        expected_of[row, torch.from_numpy(~mask)] = -1e9  # as good as never
    expected = draw(expected_of, rows(samplings, vocabulary))
    parameters = rows(samplings, vocabulary)
    banned = {
        row: found for row, mask in enumerate(masks) if (found := banned_by(words_of(mask.tolist()), vocabulary, CPU))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_FEW", few)
        got = draw(logits, replace(parameters, banned=banned))
    assert got.tokens.tolist() == expected.tokens.tolist()
    assert [(row, value.chosen) for row, value in got.logprobs] == [
        (row, pytest.approx(value.chosen, abs=1e-5)) for row, value in expected.logprobs
    ]
