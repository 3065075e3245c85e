"""Rounding to 4 bits is never worse than to the nearest, takes back what it did wrong, and knows what it multiplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import saved, tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from workers.host import cpu_flags
from workers.kernels.build import library
from workers.kernels.pack import Kernels
from workers.kernels.round import Rounder
from workers.models.config import read_architecture
from workers.models.load import load_weights
from workers.weights import calibration
from workers.weights.calibration import Passage, activated, sequences_for
from workers.weights.codes import GROUP, Codes, from_floats
from workers.weights.rounding import SPAN, fitted, moments

pytestmark = pytest.mark.kernels


def rounder(threads: int = 2) -> Rounder:
    return Rounder(library(cpu_flags()), threads)


def matrix(seed: int, rows: int, groups: int) -> Tensor:
    """With what real ones have: outliers, groups of zeros, constants, and groups far from zero."""
    random = np.random.default_rng(seed)
    weights = random.standard_t(3, (rows, groups * GROUP)).astype(np.float32) * 0.05
    for group in range(groups):
        kind = random.integers(0, 6)
        part = weights[random.integers(0, rows), group * GROUP : (group + 1) * GROUP]
        if kind == 0:
            part[:] = 0
        elif kind == 1:
            part[:] = random.normal()
        elif kind == 2:
            part += 10
    return torch.from_numpy(weights)


def correlated(inputs: int, tokens: int = 600, seed: int = 0) -> Tensor:
    """Samples [tokens, inputs] of few causes, some inputs much larger than others."""
    draw = torch.Generator().manual_seed(seed)
    causes = torch.randn(tokens, max(2, inputs // 8), generator=draw)
    mixed = causes @ torch.randn(causes.shape[1], inputs, generator=draw)
    noise = torch.randn(tokens, inputs, generator=draw)
    return (mixed + noise) * torch.rand(inputs, generator=draw).pow(3)


def of_groups(codes: Codes, weights: Tensor) -> np.ndarray[Any, Any]:
    """Squared errors, [rows, groups]."""
    return np.square(codes.weights() - weights.numpy(), dtype=np.float64).reshape(len(weights), -1, GROUP).sum(-1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4))
def test_no_group_is_worse_than_to_the_nearest(seed: int, rows: int, groups: int) -> None:
    weights = matrix(seed, rows, groups)
    found = fitted(weights, rounder())
    assert found.codes.max() <= 15
    nearest = of_groups(from_floats(weights.numpy(), 4), weights)
    assert (of_groups(found, weights) <= nearest * (1 + 1e-4) + 1e-9).all()


def test_the_grid_is_searched() -> None:
    weights = matrix(1, 64, 16)
    found, nearest = fitted(weights, rounder()), from_floats(weights.numpy(), 4)
    assert of_groups(found, weights).sum() < 0.93 * of_groups(nearest, weights).sum()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_what_is_on_a_grid_stays(seed: int, rows: int, knowing: bool) -> None:
    seen = moments(correlated(3 * GROUP)) if knowing else None
    once = fitted(matrix(seed, rows, 3), rounder(), seen)
    # A group whose codes do not reach both ends has another grid too: what it stands for stays, its codes need not.
    codes = once.codes.reshape(rows, 3, GROUP).copy()
    codes[..., 0], codes[..., 1] = 0, 15
    full = Codes(4, GROUP, 0, codes.reshape(rows, -1), once.scales, once.mins)
    again = fitted(torch.from_numpy(full.weights()), rounder(), seen)
    np.testing.assert_allclose(again.weights(), full.weights(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("inputs", [96, SPAN + 160])
def test_the_outputs_keep_more_than_by_rounding_each_weight(inputs: int) -> None:
    samples, weights = correlated(inputs), matrix(5, 48, inputs // GROUP)
    exact = samples @ weights.T

    def lost(codes: Codes) -> float:
        return float((samples @ torch.from_numpy(codes.weights()).T - exact).square().sum())

    assert lost(fitted(weights, rounder(), moments(samples))) < 0.6 * lost(fitted(weights, rounder()))


def test_each_code_answers_for_the_inputs_before() -> None:
    """By the definition, one input after the other, in float64."""
    samples, weights = correlated(4 * GROUP), matrix(3, 20, 4)
    seen = moments(samples)
    (factor,) = seen.feedback
    second = samples.double().T @ samples.double() / len(samples)
    diagonal = second.diagonal()
    diagonal += 0.01 * diagonal.mean()
    upper = factor.double()
    conditional = torch.linalg.solve_triangular(upper, second, upper=True) @ torch.linalg.inv(upper).T
    torch.testing.assert_close(conditional, torch.diag(conditional.diagonal()), rtol=1e-3, atol=1e-3)

    found = fitted(weights, rounder(), seen)
    stand_for, wanted = torch.from_numpy(found.weights()).double(), weights.double()
    scales, mins = (torch.from_numpy(part).double().repeat_interleave(GROUP, 1) for part in (found.scales, found.mins))
    errors = wanted - stand_for
    ideal = (wanted + errors @ (upper - torch.eye(len(upper), dtype=torch.float64)) - mins) / scales
    away = (ideal.clamp(0, 15) - torch.from_numpy(found.codes)).abs()
    assert float(away.nan_to_num(0).max()) < 0.5 + 1e-3


def test_threads_change_no_bit() -> None:
    weights, seen = matrix(9, 300, 6), moments(correlated(6 * GROUP))
    one, three = fitted(weights, rounder(1), seen), fitted(weights, rounder(3), seen)
    for part in ("codes", "scales", "mins"):
        np.testing.assert_array_equal(getattr(one, part), getattr(three, part))


@pytest.mark.parametrize("samples", [torch.zeros(40, 64), torch.full((40, 64), torch.nan)], ids=["zeros", "no numbers"])
def test_samples_that_tell_nothing_do_no_harm(samples: Tensor) -> None:
    weights = matrix(2, 16, 2)
    found = fitted(weights, rounder(), moments(samples))
    nearest = from_floats(weights.numpy(), 4)
    assert of_groups(found, weights).sum() <= 1.5 * of_groups(nearest, weights).sum()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_text_goes_the_way_that_transformers_goes(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    ids = torch.arange(60).view(2, 30)
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states[-2]
        inner = model.model
        passage = Passage(inner.embed_tokens(ids), read_architecture(saved(model, tmp_path)), None)
        for layer in inner.layers[:-1]:
            attention, mlp = layer.self_attn, layer.mlp
            inputs = passage.normed(layer.input_layernorm.weight.detach())
            heads = (projection(inputs) for projection in (attention.q_proj, attention.k_proj, attention.v_proj))
            passage.add(attention.o_proj(passage.attended(*heads)))
            inputs = passage.normed(layer.post_attention_layernorm.weight.detach())
            passage.add(mlp.down_proj(activated(mlp.gate_proj(inputs), mlp.up_proj(inputs))))
    torch.testing.assert_close(passage.hidden, expected, rtol=1e-4, atol=1e-4)


def with_tokenizer(directory: Path, vocabulary: int) -> None:
    """One that knows some words of the text; the others are the last id."""
    words = sorted(set(calibration.TEXT.read_text("utf-8").split()))[: vocabulary - 1]
    known = {word: number for number, word in enumerate([*words, "?"])}
    tokenizer = Tokenizer(models.WordLevel(known, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / calibration.TOKENIZER))


def test_a_model_with_a_tokenizer_is_calibrated_and_one_without_is_not(tmp_path: Path) -> None:
    path = saved(tiny("qwen2"), tmp_path)
    kernels = Kernels(library(cpu_flags()), 2, "int4")

    def codes() -> Tensor:
        return load_weights(path, dtype=torch.bfloat16, kernels=kernels).tensors["1.down.data"]

    plain = codes()
    assert sequences_for(path, 101) is None
    with_tokenizer(path, 101)
    found = sequences_for(path, 101)
    assert found is not None
    assert found.shape[1] == calibration.SEQUENCE
    assert sequences_for(path, 100) is None, "ids that the embedding does not have"
    calibrated = codes()
    assert not torch.equal(plain, calibrated)
    assert torch.equal(calibrated, codes()), "the same each time"
    (path / calibration.TOKENIZER).write_text("{")
    assert torch.equal(plain, codes())
