"""The GPU's sampler draws what the CPU's draws: in Triton's interpreter, for any parameters, the same tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton: pip install 'headrace[gpu]'")

from bus.messages.requests import Sampling
from bus.packed import pack_u32, unpack_f32, unpack_u32
from workers.kernels.triton.sample import RULED_OUT, Edits, Parameters, Penalties, Sampled, remember, sample
from workers.kernels.triton.tuning import INTERPRETER, tuning
from workers.sampling.draw import BrokenLogits, Drawn, Rows, draw
from workers.sampling.table import SamplingTable

CPU = torch.device("cpu")
TUNING = tuning(INTERPRETER)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
PROMPT, OUTPUT = torch.tensor([1, 2, 3, 5, 5]), torch.tensor([9, 9, 11])


def parameters(rows: Rows) -> Parameters:
    """The rows' parameters as the kernels take them."""
    return Parameters(
        torch.from_numpy(rows.temperature),
        torch.from_numpy(rows.top_k).to(torch.int32),
        torch.from_numpy(rows.top_p),
        torch.from_numpy(rows.min_p),
        torch.from_numpy(rows.seeds),
        torch.from_numpy(rows.positions).to(torch.int32),
    )


def edits(samplings: list[Sampling], vocabulary: int, generated: int) -> Edits:
    """Bias and suppression of the rows."""
    of_rows = []
    for sampling in samplings:
        added = {token: value for token, value in sampling.logit_bias if token < vocabulary}
        if generated < sampling.min_tokens:
            added |= dict.fromkeys(unpack_u32(sampling.suppress).tolist(), RULED_OUT)
        of_rows.append(list(added.items()))
    width = max(map(len, of_rows)) + 1
    padded = [row + [(-1, 0.0)] * (width - len(row)) for row in of_rows]
    ids = torch.tensor([[token for token, _ in row] for row in padded], dtype=torch.int32)
    return Edits(ids, torch.tensor([[value for _, value in row] for row in padded], dtype=torch.float32))


def penalties(samplings: list[Sampling], vocabulary: int) -> Penalties:
    """Histories of rows that are penalised, in another order than the rows."""
    which = [
        row
        for row, sampling in enumerate(samplings)
        if (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)
    ]
    history = torch.zeros(len(which) + 1, vocabulary, dtype=torch.int32)
    request = torch.full((len(samplings),), -1, dtype=torch.int32)
    for index, row in enumerate(reversed(which)):
        history[index, PROMPT] = -(1 << 31)
        request[row] = index
    for token in OUTPUT.tolist():
        remember(history, request, torch.full((len(samplings),), token, dtype=torch.int32))

    def of(name: str) -> Tensor:
        return torch.tensor([getattr(sampling, name) for sampling in samplings], dtype=torch.float32)

    return Penalties(history, request, of("repetition_penalty"), of("frequency_penalty"), of("presence_penalty"))


def both(logits: Tensor, samplings: list[Sampling], positions: list[int]) -> tuple[Sampled, Drawn]:
    """What the kernels draw, and what the CPU draws."""
    table = SamplingTable(len(samplings), logits.shape[1], CPU)
    for slot, sampling in enumerate(samplings):
        table.open(slot, sampling, PROMPT, OUTPUT)
    rows = table.rows(np.arange(len(samplings)), np.array(positions, np.int64))
    found = sample(
        logits.clone(),
        parameters(rows),
        TUNING,
        edits=edits(samplings, logits.shape[1], len(OUTPUT)),
        penalties=penalties(samplings, logits.shape[1]),
        best=4,
    )
    return found, draw(logits.clone(), rows)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 30, 10_000]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, -0.2]),
    seed=st.integers(0, 2**64 - 1),
    logit_bias=st.sampled_from([(), ((5, 3.0), (7, -100.0))]),
    logprobs=st.sampled_from([0, 4]),
    min_tokens=st.sampled_from([0, 5]),
    suppress=st.just(pack_u32([1, 2])),
)


@settings(max_examples=12, deadline=None, phases=PHASES)
@given(st.lists(st.tuples(samplings, st.integers(0, 5000)), min_size=1, max_size=3), st.integers(0, 1000),
       st.sampled_from([30, 513, 700]), st.booleans())  # fmt: skip
@example([(Sampling(temperature=1.0, top_p=0.5, seed=2**63 + 1), 7)], 3, 700, True)
@example([(Sampling(temperature=1.0, top_k=5, seed=4), 0), (Sampling(temperature=0.0), 0)], 4, 513, True)
def test_the_same_draws_as_on_the_cpu(rows: list[tuple[Sampling, int]], seed: int, vocabulary: int, tied: bool) -> None:
    """Law: the same token, the same log probabilities, the same alternatives; equal logits go by their ids."""
    logits = torch.randn(len(rows), vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    if tied:
        logits[:, ::7] = logits[:, :1] + 2
    found, expected = both(logits, [each for each, _ in rows], [position for _, position in rows])
    assert found.tokens.tolist() == expected.tokens.tolist()
    for row, logprobs in expected.logprobs:
        assert found.logprobs[row] == pytest.approx(logprobs.chosen, rel=1e-5, abs=1e-5)
        wanted = unpack_u32(logprobs.top_ids).tolist()
        assert found.best[row, : len(wanted)].tolist() == wanted
        np.testing.assert_allclose(
            found.best_logprobs[row, : len(wanted)], unpack_f32(logprobs.top), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_broken_has_no_token_and_spoils_no_other(spoiled: float) -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    logits[1, 40] = spoiled
    plain = [Sampling(temperature=1.0, seed=1, top_k=5), Sampling(temperature=1.0, top_k=5), Sampling(temperature=0.0)]
    with pytest.raises(BrokenLogits) as broken:
        both(logits, plain, [0, 0, 0])
    assert broken.value.rows == (1,)
    at = Parameters(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([5, 5, 0], dtype=torch.int32),
                    torch.ones(3, dtype=torch.float64), torch.zeros(3), torch.tensor([1, 0, 0]),
                    torch.zeros(3, dtype=torch.int32))  # fmt: skip
    found = sample(logits.clone(), at, TUNING)
    assert found.tokens[1] == -1
    assert found.tokens[0] >= 0
    assert int(found.tokens[2]) == int(logits[2].argmax())


def test_a_row_without_any_token_left_is_broken() -> None:
    logits = torch.zeros(1, 3)
    none = Edits(torch.arange(3, dtype=torch.int32)[None], torch.full((1, 3), RULED_OUT))
    at = Parameters(torch.zeros(1), torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.float64),
                    torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int32))  # fmt: skip
    assert sample(logits, at, TUNING, edits=none).tokens.tolist() == [-1]


def test_a_row_draws_the_same_alone_and_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 300, generator=generator) * 3
    rows = [Sampling(temperature=0.8, seed=9, top_p=0.9), Sampling(temperature=1.2, seed=3), Sampling(temperature=0.0)]
    together, _ = both(logits, rows, [4, 5, 6])
    for row, (sampling, position) in enumerate(zip(rows, [4, 5, 6], strict=True)):
        alone, _ = both(logits[row : row + 1], [sampling], [position])
        assert int(alone.tokens[0]) == int(together.tokens[row])
        assert alone.logprobs[0] == together.logprobs[row]
