"""Llama (arXiv:2302.13971, 2407.21783) and what is wired like it, SmolLM2 among them."""

from __future__ import annotations

import torch

from workers.attention.paged import PagedAttention
from workers.layers.attention import SelfAttention
from workers.layers.embedding import Embedding, Head
from workers.layers.linear import Linear, RowParallelLinear
from workers.layers.mlp import GatedMlp
from workers.layers.norm import RmsNorm
from workers.layers.rotary import Rotary
from workers.models.decoder import Block, Decoder
from workers.models.interface import Collectives
from workers.models.rope import inverse_frequencies
from workers.weights.prepared import Prepared


def build(weights: Prepared, collectives: Collectives, device: torch.device) -> Decoder:
    """Wire one rank's share."""
    a, shard = weights.architecture, weights.shard
    heads, kv_heads = len(shard.heads), len(shard.kv_heads)
    rotary = Rotary(inverse_frequencies(a.rope, a.head_dim, weights.rope_factors()))
    backend = PagedAttention(shard.kv_heads, a.heads // a.kv_heads)

    def block(layer: int) -> Block:
        return Block(
            attention_norm=RmsNorm(weights.norm("attention_norm", layer), a.rms_eps),
            attention=SelfAttention(
                Linear(*weights.qkv(layer)),
                RowParallelLinear(weights.attention_out(layer), collectives),
                rotary,
                backend,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=a.head_dim,
                layer=layer,
            ),
            mlp_norm=RmsNorm(weights.norm("mlp_norm", layer), a.rms_eps),
            mlp=GatedMlp(Linear(weights.gate_up(layer)), RowParallelLinear(weights.down(layer), collectives)),
        )

    return Decoder(
        architecture=a,
        device=device,
        dtype=weights.dtype,
        embedding=Embedding(weights.embedding(), shard.vocabulary.start, collectives, whole=shard.ranks == 1),
        blocks=[block(layer) for layer in range(a.layers)],
        norm=RmsNorm(weights.final_norm(), a.rms_eps),
        head=Head(Linear(weights.head()), shard.vocabulary_sizes, collectives),
        rotary=rotary,
        backend=backend,
    )
