"""Grouped-query self-attention: projections, norms and rotation around an attention back end."""

from __future__ import annotations

from torch import Tensor

from workers.attention.interface import Attention
from workers.layers.linear import Product
from workers.layers.norm import RmsNorm
from workers.layers.rotary import Rotary


class SelfAttention:
    """One layer's attention.

    Args:
        qkv: to [q, k, v], fused.
        out: back to the residual stream.
        rotary, backend: planned once a step by the model.
        heads, kv_heads, head_dim: of this rank.
        layer: which, for the back end.
        norms: of each head of q and of k, before they are rotated; None where the model has none.
    """

    def __init__(
        self,
        qkv: Product,
        out: Product,
        rotary: Rotary,
        backend: Attention,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        layer: int,
        norms: tuple[RmsNorm, RmsNorm] | None = None,
    ) -> None:
        self._qkv, self._out, self._rotary, self._backend, self._norms = qkv, out, rotary, backend, norms
        self._heads, self._kv_heads, self._head_dim, self._layer = heads, kv_heads, head_dim, layer

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same."""
        heads, kv_heads = self._heads, self._kv_heads
        qkv = self._qkv(x).view(len(x), heads + 2 * kv_heads, self._head_dim)
        query, keys = qkv[:, :heads], qkv[:, heads : heads + kv_heads]
        if self._norms is not None:
            query.copy_(self._norms[0](query))
            keys.copy_(self._norms[1](keys))
        self._rotary(qkv[:, : heads + kv_heads])
        kv = qkv[:, heads:].view(len(x), 2, kv_heads, self._head_dim)
        found = self._backend.forward(query, kv, self._layer)
        return self._out(found.view(len(x), -1))
