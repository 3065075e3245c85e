"""From an `Architecture` and its weights to a decoder of torch's operators: the one place that wires layers.

It knows no families: what one has beside llama is a number in the architecture (`families`).
"""

from __future__ import annotations

import torch

from workers.attention.paged import PagedAttention
from workers.layers.attention import SelfAttention
from workers.layers.embedding import Embedding, Head
from workers.layers.experts import ExpertMlp
from workers.layers.linear import Linear, RowParallelLinear
from workers.layers.mlp import ACTIVATIONS, GatedMlp
from workers.layers.norm import RmsNorm
from workers.layers.rotary import Rotary
from workers.lora.fit import HEAD
from workers.lora.layers import AdaptedLinear, Grouped
from workers.models.decoder import Block, Decoder, Layer
from workers.models.interface import Collectives
from workers.models.rope import inverse_frequencies
from workers.weights.prepared import Prepared


def wire(weights: Prepared, collectives: Collectives, device: torch.device) -> Decoder:
    """Wire one rank's share. Takes milliseconds: no weight is touched."""
    a, shard = weights.architecture, weights.shard
    rotary = Rotary(inverse_frequencies(a.rope, a.head_dim, weights.rope_factors()), a.rope.magnitude)
    local = rotary
    if a.local_rope is not None:
        local = Rotary(inverse_frequencies(a.local_rope, a.head_dim), a.local_rope.magnitude)
    adapted = Grouped(device)
    backend = PagedAttention(
        shard.kv_heads, a.heads // a.kv_heads, windows=a.windows, scale=a.query_scale, cap=a.score_cap
    )

    def norm(part: str, layer: int) -> RmsNorm:
        return RmsNorm(weights.norm(part, layer), a.rms_eps)

    def attention(layer: int) -> SelfAttention:
        return SelfAttention(
            AdaptedLinear(
                Linear(*weights.qkv(layer)),
                adapted,
                ((layer, "q"), 0),
                ((layer, "k"), len(shard.heads) * a.head_dim),
                ((layer, "v"), (len(shard.heads) + len(shard.kv_heads)) * a.head_dim),
            ),
            RowParallelLinear(
                AdaptedLinear(Linear(weights.attention_out(layer)), adapted, ((layer, "out"), 0)), collectives
            ),
            local if a.window(layer) else rotary,
            backend,
            heads=len(shard.heads),
            kv_heads=len(shard.kv_heads),
            head_dim=a.head_dim,
            layer=layer,
            norms=(norm("q_norm", layer), norm("k_norm", layer)) if a.qk_norm else None,
        )

    def block(layer: int) -> Block:
        return Block(
            attention_norm=norm("attention_norm", layer),
            attention=attention(layer),
            mlp_norm=norm("mlp_norm", layer),
            mlp=_mlp(weights, layer, collectives, adapted),
            post_attention_norm=norm("post_attention_norm", layer) if a.post_norms else None,
            post_mlp_norm=norm("post_mlp_norm", layer) if a.post_norms else None,
            scale=a.residual_scale,
        )

    return Decoder(
        architecture=a,
        device=device,
        dtype=weights.dtype,
        embedding=Embedding(
            weights.embedding(), shard.vocabulary.start, collectives, whole=shard.ranks == 1, scale=a.embedding_scale
        ),
        blocks=[block(layer) for layer in range(a.layers)],
        norm=RmsNorm(weights.final_norm(), a.rms_eps),
        head=Head(
            AdaptedLinear(Linear(weights.head()), adapted, ((0, HEAD), 0)), shard.vocabulary_sizes, collectives,
            scale=a.logit_scale, cap=a.logit_cap,
        ),
        rotaries=[rotary] if local is rotary else [rotary, local],
        backend=backend,
        adapted=adapted,
    )  # fmt: skip


def _mlp(weights: Prepared, layer: int, collectives: Collectives, adapted: Grouped) -> Layer:
    activate = ACTIVATIONS[weights.architecture.activation]
    experts = weights.architecture.experts_of(layer)
    if experts is None:
        down = AdaptedLinear(Linear(weights.down(layer)), adapted, ((layer, "down"), 0))
        gate_up = AdaptedLinear(
            Linear(weights.gate_up(layer)),
            adapted,
            ((layer, "gate"), 0),
            ((layer, "up"), len(weights.shard.intermediate)),
        )
        return GatedMlp(gate_up, RowParallelLinear(down, collectives), activate)

    def expert(number: int) -> GatedMlp:
        gate_up, down = weights.expert(layer, number)
        return GatedMlp(Linear(gate_up), Linear(down), activate)

    return ExpertMlp(
        Linear(weights.router(layer)),
        {number: expert(number) for number in weights.shard.experts},
        chosen=experts.chosen,
        normalised=experts.normalised,
        collectives=collectives,
    )
