"""A stack of pre-norm blocks between an embedding and an output head: what a step runs through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attention.interface import Attention
from workers.layers.rotary import Rotary
from workers.lora.adapter import Adapter
from workers.lora.layers import Grouped
from workers.models.architecture import Architecture
from workers.models.interface import Batch

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Block:
    """`x + scale * attention(norm(x))`, then `x + scale * mlp(norm(x))`; what is added may be normed before."""

    attention_norm: Layer
    attention: Layer
    mlp_norm: Layer
    mlp: Layer
    post_attention_norm: Layer | None = None
    post_mlp_norm: Layer | None = None
    scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same; `x` is overwritten."""
        attended = self.attention(self.attention_norm(x))
        if self.post_attention_norm is not None:
            attended = self.post_attention_norm(attended)
        x.add_(attended, alpha=self.scale)
        computed = self.mlp(self.mlp_norm(x))
        if self.post_mlp_norm is not None:
            computed = self.post_mlp_norm(computed)
        return x.add_(computed, alpha=self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Implements `workers.models.interface.Model`."""

    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    embedding: Layer
    blocks: Sequence[Block]
    norm: Layer
    head: Layer
    rotaries: Sequence[Rotary]
    backend: Attention
    adapted: Grouped

    @torch.inference_mode()
    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        for rotary in self.rotaries:
            rotary.plan(batch.positions)
        self.backend.plan(batch, pages)
        self.adapted.plan(batch.adapters, batch.row_starts)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, adapters: Sequence[Adapter | None] = ()) -> Tensor:
        self.adapted.plan(adapters)
        return self.head(hidden)

    def spent_ns(self) -> dict[str, int]:
        return {}
