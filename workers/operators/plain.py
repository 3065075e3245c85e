"""Torch's operators: the reference, and what a CPU computes with where the native kernels do not."""

from __future__ import annotations

from torch import Tensor

from workers.attention.interface import Attention, HeadNorms
from workers.attention.paged import PagedAttention
from workers.layers.linear import Linear
from workers.layers.mlp import ACTIVATIONS
from workers.layers.norm import RmsNorm
from workers.layers.rotary import Rotary
from workers.models.architecture import Activation, Architecture
from workers.models.interface import Batch
from workers.operators.interface import Activate, AddNorm, Angles, Attend, Experts, Layer, Mixture
from workers.weights.loader import Weight
from workers.weights.quantised.weight import QuantisedWeight
from workers.weights.sharding import Shard


class PlainOperators:
    """Implements `workers.operators.interface.Operators`.

    Args:
        attention: the back end.
        kv_heads: of this rank.
    """

    def __init__(self, attention: Attention, kv_heads: int) -> None:
        self._attention, self._kv_heads = attention, kv_heads
        self._rotaries: dict[int, Rotary] = {}  # by the frequencies, which layers share

    def linear(self, weight: Weight, bias: Tensor | None = None) -> Linear:
        """Torch multiplies with floats: what is quantised for kernels that are not here becomes float32."""
        return Linear(weight.weights() if isinstance(weight, QuantisedWeight) else weight, bias)

    def norm(self, weight: Tensor, eps: float) -> Layer:
        return RmsNorm(weight, eps)

    def add_norm(self, weight: Tensor, eps: float, scale: float = 1.0) -> AddNorm:
        norm = RmsNorm(weight, eps)

        def apply(x: Tensor | None, residual: Tensor) -> Tensor:
            return norm(residual if x is None else residual.add_(x, alpha=scale))

        return apply

    def activate(self, activation: Activation) -> Activate:
        chosen = ACTIVATIONS[activation]

        def apply(gate_up: Tensor) -> Tensor:
            gate, up = gate_up.chunk(2, -1)
            return chosen(gate).mul_(up)

        return apply

    def mixture(self, experts: Experts, activation: Activation) -> Mixture:
        """Tokens are sorted by expert, so that each that was chosen at all computes its tokens in one product."""
        numbers, activate = experts.numbers, self.activate(activation)
        products = [
            (self.linear(up), self.linear(down)) for up, down in zip(experts.gate_up, experts.down, strict=True)
        ]

        def apply(x: Tensor, choices: Tensor) -> Tensor:
            flat, chosen = choices.flatten(), choices.shape[1]
            order = flat.argsort(stable=True)
            ends = flat.bincount(minlength=numbers.stop).cumsum(0).tolist()
            results = x.new_zeros(len(flat), x.shape[1])
            for number, (gate_up, down) in zip(numbers, products, strict=True):
                rows = order[ends[number - 1] if number else 0 : ends[number]]
                if len(rows):
                    results[rows] = down(activate(gate_up(x[rows // chosen])))
            return results

        return apply

    def attend(self, layer: int, angles: Angles, norms: HeadNorms | None) -> Attend:
        rotary = self._rotaries.setdefault(id(angles.frequencies), Rotary(*angles))
        attention, kv_heads = self._attention, self._kv_heads
        of_queries = None if norms is None else RmsNorm(norms.query, norms.eps)
        of_keys = None if norms is None else RmsNorm(norms.key, norms.eps)

        def apply(qkv: Tensor) -> Tensor:
            heads = qkv.shape[1] - 2 * kv_heads
            query, keys = qkv[:, :heads], qkv[:, heads : heads + kv_heads]
            if of_queries is not None and of_keys is not None:
                query.copy_(of_queries(query))
                keys.copy_(of_keys(keys))
            rotary(qkv[:, : heads + kv_heads])
            return attention.forward(query, qkv[:, heads:].view(len(qkv), 2, kv_heads, qkv.shape[2]), layer)

        return apply

    def plan(self, batch: Batch, pages: Tensor) -> None:
        for rotary in self._rotaries.values():
            rotary.plan(batch.positions)
        self._attention.plan(batch, pages)


def plain(architecture: Architecture, shard: Shard) -> PlainOperators:
    """For `workers.models.wiring.wire`."""
    a = architecture
    attention = PagedAttention(
        shard.kv_heads, a.heads // a.kv_heads, windows=a.windows, scale=a.query_scale, cap=a.score_cap
    )
    return PlainOperators(attention, len(shard.kv_heads))
