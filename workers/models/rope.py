"""Rotary positions as numbers: the inverse frequencies of each kind of scaling. Applying them is `layers.rotary`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeKind = Literal["default", "linear", "llama3", "longrope", "file"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (RoFormer, arXiv:2104.09864).

    Attributes:
        theta: the base.
        kind: "linear" divides all frequencies by `factor` (arXiv:2306.15595); "llama3" only the low ones, with a ramp
            between; "longrope" (arXiv:2402.13753) divides them by `short` or `long`; "file" by factors that stand in
            the weight file.
        low_factor, high_factor, original_context: of "llama3": wavelengths longer than `original_context / low_factor`
            are scaled, those shorter than `original_context / high_factor` are not. Of "longrope": up to which context
            `short` holds.
        rotated: dimensions of a head that are rotated, from the first one; 0 is all of them.
        short, long: [rotated / 2] each, of "longrope".
        context: that is served, of "longrope". Which factors hold must be the same for all of a sequence, and for all
            that share pages: so it follows from the longest context that may be, and not from how long a sequence is.
        magnitude: multiplies queries and keys, in what is rotated of them.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    original_context: int = 8192
    rotated: int = 0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    context: int = 0
    magnitude: float = 1.0

    @property
    def variant(self) -> str:
        """Which of the factors hold; empty where there are none to choose from. Another variant, other KV."""
        if self.kind != "longrope":
            return ""
        return "long" if self.context > self.original_context else "short"


def longrope_magnitude(factor: float, original_context: int) -> float:
    """Of a context that is `factor` times as long (arXiv:2402.13753)."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_context))


def inverse_frequencies(rope: Rope, head_dim: int, factors: Tensor | None = None) -> Tensor:
    """[rotated / 2] float32 radians per token.

    Args:
        rope: kind and numbers.
        head_dim: dimensions of a head.
        factors: [head_dim / 2], of kind "file".
    """
    rotated = rope.rotated or head_dim
    exponents = torch.arange(0, rotated, 2, dtype=torch.int64).to(torch.float32) / rotated
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, frequencies)
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.long if rope.variant == "long" else rope.short) * rope.theta**exponents)
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
