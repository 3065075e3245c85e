"""A stack of pre-norm blocks between an embedding and an output head: what a step runs through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.lora.adapter import Adapter
from workers.lora.layers import Grouped
from workers.models.architecture import Architecture
from workers.models.interface import Batch
from workers.operators.interface import AddNorm, Layer, Operators


@dataclass(frozen=True, slots=True)
class Block:
    """`x + scale * attention(norm(x))`, then `x + scale * mlp(norm(x))`; what is added may be normed before.

    Each sum is left to the norm that comes after it, which does both at once.
    """

    attention_norm: AddNorm
    attention: Layer
    mlp_norm: AddNorm
    mlp: Layer
    post_attention_norm: Layer | None = None
    post_mlp_norm: Layer | None = None

    def __call__(self, x: Tensor | None, residual: Tensor) -> Tensor:
        """What this block brings, [tokens, hidden]; x is what the one before brought, and goes into the residual."""
        attended = self.attention(self.attention_norm(x, residual))
        if self.post_attention_norm is not None:
            attended = self.post_attention_norm(attended)
        computed = self.mlp(self.mlp_norm(attended, residual))
        return computed if self.post_mlp_norm is None else self.post_mlp_norm(computed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Implements `workers.models.interface.Model`."""

    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    embedding: Layer
    blocks: Sequence[Block]
    norm: AddNorm
    head: Layer
    operators: Operators
    adapted: Grouped

    @torch.inference_mode()
    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        self.operators.plan(batch, pages)
        self.adapted.plan(batch.adapters, batch.row_starts)
        return self.compute(ids)

    def compute(self, ids: Tensor) -> Tensor:
        """`forward` of a step that is planned: nothing but operations on the device, which a graph can keep."""
        residual, brought = self.embedding(ids), None
        for block in self.blocks:
            brought = block(brought, residual)
        return self.norm(brought, residual)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, adapters: Sequence[Adapter | None] = ()) -> Tensor:
        self.adapted.plan(adapters)
        return self.head(hidden)

    def spent_ns(self) -> dict[str, int]:
        return {}
