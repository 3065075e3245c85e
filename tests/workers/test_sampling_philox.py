"""The generator against Random123's known answers, and the noise made of it."""

from __future__ import annotations

import math

import pytest
import torch

from workers.sampling.philox import noise_everywhere, noise_of, philox4x32

# kat_vectors of Random123, "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]  # fmt: skip


def int64(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    words = philox4x32(tuple(int64(c) for c in counter), tuple(int64(k) for k in key))  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == expected


def test_counters_broadcast_against_each_other() -> None:
    blocks, position, zero, key = torch.arange(5), int64(7).unsqueeze(-1), int64(0), int64(3)
    together = philox4x32((blocks, position, zero, zero), (key, key))
    for block in range(5):
        alone = philox4x32((int64(block), int64(7), zero, zero), (key, key))
        assert [int(w[0, block]) for w in together] == [int(w) for w in alone]


def test_noise_of_a_token_is_the_documented_word() -> None:
    """Token t gets lane t % 4 of counter (t // 4, position, 0, 0) under the key (low seed, high seed)."""
    seed, position, token = 0x1234567890ABCDEF, 41, 1003
    word = philox4x32(
        (int64(token // 4), int64(position), int64(0), int64(0)), (int64(seed & 0xFFFFFFFF), int64(seed >> 32))
    )[token % 4]
    v = (int(word) + 0.5) / 2**32
    noise = noise_of(int64(seed), int64(position), int64(token).unsqueeze(0))
    assert noise.item() == pytest.approx(-math.log(-math.log1p(-v)), rel=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 3, 4, 1001])
def test_noise_of_some_tokens_equals_noise_of_all(vocabulary: int) -> None:
    seeds, positions = int64(5, -1, 2**62), int64(0, 9, 131071)
    everywhere = noise_everywhere(seeds, positions, vocabulary)
    assert everywhere.shape == (3, vocabulary)
    tokens = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    assert torch.equal(noise_of(seeds, positions, tokens), everywhere.gather(-1, tokens))


def test_noise_differs_by_seed_in_either_half_by_position_and_by_token() -> None:
    base = noise_everywhere(int64(1), int64(1), 64)
    for seed, position in ((2, 1), (1 + 2**32, 1), (1, 2)):
        assert not torch.equal(base, noise_everywhere(int64(seed), int64(position), 64))
    assert len(base.unique()) == 64


def test_noise_is_gumbel() -> None:
    """Kolmogorov-Smirnov at a fixed seed: 60,000 values against the Gumbel distribution, 0.1 % level."""
    values = noise_everywhere(torch.arange(6), int64(0).expand(6), 10_000).flatten().double().sort().values
    n = len(values)
    distribution = torch.exp(-torch.exp(-values))
    empirical = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert float((distribution - empirical).abs().max()) < 1.95 / math.sqrt(n)
    assert bool(values.isfinite().all())
