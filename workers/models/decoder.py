"""A stack of pre-norm blocks between an embedding and an output head: what a step runs through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attention.interface import Attention
from workers.layers.rotary import Rotary
from workers.models.config import Architecture
from workers.models.interface import Batch

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Block:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    attention_norm: Layer
    attention: Layer
    mlp_norm: Layer
    mlp: Layer

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to the same; `x` is overwritten."""
        x += self.attention(self.attention_norm(x))
        x += self.mlp(self.mlp_norm(x))
        return x


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
    rotary: Rotary
    backend: Attention

    @torch.inference_mode()
    def forward(self, ids: Tensor, batch: Batch, pages: Tensor) -> Tensor:
        self.rotary.plan(batch.positions)
        self.backend.plan(batch, pages)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def spent_ns(self) -> dict[str, int]:
        return {}
