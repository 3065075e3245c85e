"""Grouped-query self-attention: two projections, and between them what `workers.operators` has for the device."""

from __future__ import annotations

from torch import Tensor

from workers.layers.linear import Product
from workers.operators.interface import Attend


class SelfAttention:
    """One layer's attention.

    Args:
        qkv: to [q, k, v], fused.
        out: back to the residual stream.
        attend: what is between the two.
        head_dim: numbers of a head.
    """

    def __init__(self, qkv: Product, out: Product, attend: Attend, *, head_dim: int) -> None:
        self._qkv, self._out, self._attend, self._head_dim = qkv, out, attend, head_dim

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same."""
        found = self._attend(self._qkv(x).view(len(x), -1, self._head_dim))
        return self._out(found.view(len(x), -1))
