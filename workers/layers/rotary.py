"""Applying rotary positions. Which frequencies is `models.rope`."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotary:
    """Rotates queries and keys of a step. The angles are made once a step and used by every layer.

    Args:
        inverse_frequencies: [rotated / 2] float32; what is behind the first `rotated` dimensions stays as it is.
        magnitude: multiplies what is rotated.
    """

    def __init__(self, inverse_frequencies: Tensor, magnitude: float = 1.0) -> None:
        self._frequencies, self._magnitude = inverse_frequencies, magnitude
        self._rotated = 2 * len(inverse_frequencies)
        self._cos = self._sin = torch.empty(0)

    def plan(self, positions: Tensor) -> None:
        """Prepare for tokens at these positions, [tokens] int64."""
        angles = positions.to(torch.float32)[:, None, None] * self._frequencies
        self._cos, self._sin = angles.cos(), angles.sin()
        if self._magnitude != 1.0:
            self._cos *= self._magnitude
            self._sin *= self._magnitude

    @property
    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the step, float32 [tokens, rotated / 2]."""
        return self._cos[:, 0], self._sin[:, 0]

    def __call__(self, heads: Tensor) -> None:
        """Rotate [tokens, heads, head_dim] in place, in float32: the first half of the part against the second."""
        first, second = heads[..., : self._rotated].chunk(2, -1)
        x, y = first.float(), second.float()
        rotated = x * self._cos - y * self._sin
        second.copy_(x * self._sin + y * self._cos)
        first.copy_(rotated)
