"""Rotary positions as numbers: the inverse frequencies of each kind of scaling. Applying them is `layers.rotary`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeKind = Literal["default", "linear", "llama3", "file"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (RoFormer, arXiv:2104.09864).

    Attributes:
        theta: the base.
        kind: "linear" divides all frequencies by `factor` (arXiv:2306.15595); "llama3" only the low ones, with a ramp
            between; "file" divides them by factors that stand in the weight file.
        low_factor, high_factor, original_context: of "llama3": wavelengths longer than `original_context / low_factor`
            are scaled, those shorter than `original_context / high_factor` are not.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_context: int = 8192


def inverse_frequencies(rope: Rope, head_dim: int, factors: Tensor | None = None) -> Tensor:
    """[head_dim / 2] float32 radians per token.

    Args:
        rope: kind and numbers.
        head_dim: dimensions of a head, all of which are rotated.
        factors: [head_dim / 2], of kind "file".
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, frequencies)
    if rope.kind == "file":
        assert factors is not None
        return frequencies / factors
    return frequencies


def _llama3(rope: Rope, frequencies: Tensor) -> Tensor:
    # https://github.com/meta-llama/llama-models/blob/main/models/llama3/model.py, `apply_scaling`.
    wavelengths = 2 * math.pi / frequencies
    low = rope.original_context / rope.low_factor
    high = rope.original_context / rope.high_factor
    ramp = (rope.original_context / wavelengths - rope.low_factor) / (rope.high_factor - rope.low_factor)
    between = (1 - ramp) * frequencies / rope.factor + ramp * frequencies
    scaled = torch.where(wavelengths > low, frequencies / rope.factor, frequencies)
    return torch.where((wavelengths <= low) & (wavelengths >= high), between, scaled)
