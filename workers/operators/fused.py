"""The GPU's kernels as a decoder's operations: one kernel between two products wherever there can be one."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.attention.interface import HeadNorms
from workers.attention.triton import GraphLimits, TritonAttention
from workers.kernels.triton.activation import gated
from workers.kernels.triton.attend import Shape
from workers.kernels.triton.experts import align, grouped
from workers.kernels.triton.norm import add_rms_norm
from workers.kernels.triton.tuning import Tuning, tuning_of
from workers.layers.linear import Linear, Product
from workers.layers.rotary import Rotary
from workers.models.architecture import Activation, Architecture
from workers.models.interface import Batch
from workers.operators.interface import (
    Activate,
    AddNorm,
    Angles,
    Attend,
    Experts,
    Layer,
    MakeOperators,
    Mixture,
)
from workers.operators.products import QuantisedLinear
from workers.weights.loader import Weight
from workers.weights.prepared import stacked_weight
from workers.weights.quantised.weight import QuantisedWeight
from workers.weights.sharding import Shard


class FusedOperators:
    """Implements `workers.operators.interface.Operators` and `Graphable`.

    Args:
        attention: of the same GPU.
        tuning: of the GPU.
    """

    def __init__(self, attention: TritonAttention, tuning: Tuning) -> None:
        self._attention, self._tuning = attention, tuning
        self._rotaries: dict[int, Rotary] = {}  # by the frequencies, which layers share

    def linear(self, weight: Weight, bias: Tensor | None = None) -> Product:
        if isinstance(weight, QuantisedWeight):
            return QuantisedLinear(weight, bias, self._tuning)
        return Linear(weight, bias)

    def norm(self, weight: Tensor, eps: float) -> Layer:
        return lambda x: add_rms_norm(x, None, weight, eps, self._tuning)

    def add_norm(self, weight: Tensor, eps: float, scale: float = 1.0) -> AddNorm:
        def apply(x: Tensor | None, residual: Tensor) -> Tensor:
            if x is None:
                return add_rms_norm(residual, None, weight, eps, self._tuning)
            return add_rms_norm(x, residual, weight, eps, self._tuning, scale)

        return apply

    def activate(self, activation: Activation) -> Activate:
        return lambda gate_up: gated(gate_up, self._tuning, activation)

    def mixture(self, experts: Experts, activation: Activation) -> Mixture:
        """All experts in one launch for each of the two products; nothing waits for which were chosen."""
        numbers, tuning = experts.numbers, self._tuning
        gate_up, down = stacked_weight(experts.gate_up), stacked_weight(experts.down)

        def apply(x: Tensor, choices: Tensor) -> Tensor:
            rows = choices.numel()
            block = tuning.grouped_for(rows // max(1, len(numbers))).rows
            blocks = align(choices.flatten() - numbers.start, len(numbers), block)
            widened = gated(grouped(x, gate_up, blocks, rows, tuning), tuning, activation)
            return grouped(widened, down, blocks, rows, tuning)

        return apply

    def attend(self, layer: int, angles: Angles, norms: HeadNorms | None) -> Attend:
        rotary = self._rotaries.setdefault(id(angles.frequencies), Rotary(*angles))
        return lambda qkv: self._attention.rotate_and_forward(qkv, rotary.angles, layer, norms)

    def plan(self, batch: Batch, pages: Tensor) -> None:
        self._turn(batch.positions)
        self._attention.plan(batch, pages)

    def capture(self, rows: int, positions: Tensor, pages: Tensor) -> None:
        self._turn(positions)
        self._attention.capture(rows, pages)

    def replay(self, rows: int, batch: Batch) -> bool:
        return self._attention.replay(rows, batch)

    def _turn(self, positions: Tensor) -> None:
        for rotary in self._rotaries.values():
            rotary.plan(positions)


def fused(kv_dtype: torch.dtype, device: torch.device, graphs: GraphLimits | None = None) -> MakeOperators:
    """For `workers.models.wiring.wire`.

    Args:
        kv_dtype: of the pages.
        device: a GPU; a CPU where Triton's interpreter runs the kernels.
        graphs: None where no step will be captured.

    Raises (when called):
        workers.kernels.triton.tuning.Unsupported, NoTuning: the kernels cannot compute this.
    """

    def make(architecture: Architecture, shard: Shard) -> FusedOperators:
        a, tuning = architecture, tuning_of(device)
        scale = a.query_scale or a.head_dim**-0.5
        shapes = [Shape(scale, a.window(layer), a.score_cap) for layer in range(a.layers)]
        tuning.rowwise_for(a.hidden)
        attention = TritonAttention(
            shard.kv_heads, a.heads // a.kv_heads, a.head_dim, shapes, kv_dtype, device, graphs=graphs, tuning=tuning
        )
        return FusedOperators(attention, tuning)

    return make
