"""Applying rotary positions. Which frequencies is `models.rope`."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotary:
    """Rotates queries and keys of a step. The angles are made once a step and used by every layer.

    Args:
        inverse_frequencies: [head_dim / 2] float32.
    """

    def __init__(self, inverse_frequencies: Tensor) -> None:
        self._frequencies = inverse_frequencies
        self._cos = self._sin = torch.empty(0)

    def plan(self, positions: Tensor) -> None:
        """Prepare for tokens at these positions, [tokens] int64."""
        angles = positions.to(torch.float32)[:, None, None] * self._frequencies
        self._cos, self._sin = angles.cos(), angles.sin()

    def __call__(self, heads: Tensor) -> None:
        """Rotate [tokens, heads, head_dim] in place: the first half of a head against the second, in float32."""
        first, second = heads.chunk(2, -1)
        x, y = first.float(), second.float()
        rotated = x * self._cos - y * self._sin
        second.copy_(x * self._sin + y * self._cos)
        first.copy_(rotated)
