"""Bias, penalties and suppression against a plain float64 reference that follows the definitions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.messages.requests import Sampling
from bus.packed import pack_u32
from workers.sampling.adjust import Adjustment

VOCABULARY = 40
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)
parameters = st.builds(
    Sampling,
    repetition_penalty=st.floats(0.5, 2.0),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY + 3), st.floats(-100, 100), max_size=5).map(
        lambda bias: tuple(bias.items())
    ),
    min_tokens=st.integers(0, 30),
    suppress=st.lists(st.integers(0, VOCABULARY + 3), max_size=4).map(pack_u32),
)


def reference(logits: list[float], sampling: Sampling, prompt: list[int], output: list[int]) -> list[float]:
    adjusted = [float(value) for value in logits]
    for token, bias in sampling.logit_bias:
        if token < VOCABULARY:
            adjusted[token] += float(np.float32(bias))
    for token in range(VOCABULARY):
        if token in prompt or token in output:
            value = adjusted[token]
            adjusted[token] = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
        if token in output:
            adjusted[token] -= sampling.frequency_penalty * output.count(token) + sampling.presence_penalty
    if len(output) < sampling.min_tokens:
        for token in np.frombuffer(sampling.suppress, "<u4"):
            if token < VOCABULARY:
                adjusted[token] = -np.inf
    return adjusted


@settings(max_examples=150, deadline=None)
@given(parameters, tokens, tokens, tokens, st.integers(0, 99))
def test_adjusted_logits_equal_the_definition(
    sampling: Sampling, prompt: list[int], output: list[int], drawn: list[int], seed: int
) -> None:
    """Repetition counts prompt and output, presence and frequency the output only; drawn tokens join the output."""
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 5
    adjustment = Adjustment(
        sampling,
        VOCABULARY,
        torch.tensor(prompt, dtype=torch.int64),
        torch.tensor(output, dtype=torch.int64),
        torch.device("cpu"),
    )
    for token in drawn:
        adjustment.append(torch.tensor(token))
    expected = reference(logits.tolist(), sampling, prompt, output + drawn)
    adjustment.apply(logits)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=2e-5, atol=2e-4)


def test_defaults_need_no_adjustment() -> None:
    assert not Adjustment.needed(Sampling(temperature=1.0, top_p=0.5, seed=3, suppress=pack_u32([1])))
    for sampling in (
        Sampling(repetition_penalty=1.1),
        Sampling(presence_penalty=0.1),
        Sampling(frequency_penalty=-0.1),
        Sampling(logit_bias=((1, 1.0),)),
        Sampling(min_tokens=1, suppress=pack_u32([1])),
    ):
        assert Adjustment.needed(sampling)
