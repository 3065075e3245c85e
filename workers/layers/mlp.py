"""The gated MLP (SwiGLU, arXiv:2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from workers.layers.linear import Linear, RowParallelLinear


class GatedMlp:
    """`down(silu(gate(x)) * up(x))`.

    Args:
        gate_up: to [gate, up], fused.
        down: back to the residual stream.
    """

    def __init__(self, gate_up: Linear, down: RowParallelLinear) -> None:
        self._gate_up, self._down = gate_up, down

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same."""
        gate, up = self._gate_up(x).chunk(2, -1)
        return self._down(F.silu(gate).mul_(up))
