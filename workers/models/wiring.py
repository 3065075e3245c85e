"""From an `Architecture` and its weights to a decoder: the one place that wires layers.

It knows no families: what one has beside llama is a number in the architecture (`families`). It knows no devices
either: what is between two matrix products comes from `workers.operators`.
"""

from __future__ import annotations

import torch

from workers.attention.interface import HeadNorms
from workers.layers.attention import SelfAttention
from workers.layers.embedding import Embedding, Head
from workers.layers.experts import ExpertMlp
from workers.layers.linear import RowParallelLinear
from workers.layers.mlp import GatedMlp
from workers.lora.fit import HEAD
from workers.lora.layers import AdaptedLinear, Grouped
from workers.models.decoder import Block, Decoder
from workers.models.interface import Collectives
from workers.models.rope import inverse_frequencies
from workers.operators.interface import AddNorm, Angles, Experts, Layer, MakeOperators, Operators
from workers.operators.plain import plain
from workers.weights.prepared import Prepared


def wire(
    weights: Prepared, collectives: Collectives, device: torch.device, make_operators: MakeOperators = plain
) -> Decoder:
    """Wire one rank's share. Takes milliseconds: no weight is touched."""
    a, shard = weights.architecture, weights.shard
    operators = make_operators(a, shard)
    angles = Angles(inverse_frequencies(a.rope, a.head_dim, weights.rope_factors()).to(device), a.rope.magnitude)
    local = angles
    if a.local_rope is not None:
        local = Angles(inverse_frequencies(a.local_rope, a.head_dim).to(device), a.local_rope.magnitude)
    adapted = Grouped(device)

    def norm(part: str, layer: int) -> Layer:
        return operators.norm(weights.norm(part, layer), a.rms_eps)

    def add_norm(part: str, layer: int) -> AddNorm:
        return operators.add_norm(weights.norm(part, layer), a.rms_eps, a.residual_scale)

    def attention(layer: int) -> SelfAttention:
        norms = None
        if a.qk_norm:
            norms = HeadNorms(weights.norm("q_norm", layer), weights.norm("k_norm", layer), a.rms_eps)
        return SelfAttention(
            AdaptedLinear(
                operators.linear(*weights.qkv(layer)),
                adapted,
                ((layer, "q"), 0),
                ((layer, "k"), len(shard.heads) * a.head_dim),
                ((layer, "v"), (len(shard.heads) + len(shard.kv_heads)) * a.head_dim),
            ),
            RowParallelLinear(
                AdaptedLinear(operators.linear(weights.attention_out(layer)), adapted, ((layer, "out"), 0)), collectives
            ),
            operators.attend(layer, local if a.window(layer) else angles, norms),
            head_dim=a.head_dim,
        )

    def block(layer: int) -> Block:
        return Block(
            attention_norm=add_norm("attention_norm", layer),
            attention=attention(layer),
            mlp_norm=add_norm("mlp_norm", layer),
            mlp=_mlp(weights, layer, collectives, operators, adapted),
            post_attention_norm=norm("post_attention_norm", layer) if a.post_norms else None,
            post_mlp_norm=norm("post_mlp_norm", layer) if a.post_norms else None,
        )

    return Decoder(
        architecture=a,
        device=device,
        dtype=weights.dtype,
        embedding=Embedding(
            weights.embedding(), shard.vocabulary.start, collectives, whole=shard.ranks == 1, scale=a.embedding_scale
        ),
        blocks=[block(layer) for layer in range(a.layers)],
        norm=operators.add_norm(weights.final_norm(), a.rms_eps, a.residual_scale),
        head=Head(
            AdaptedLinear(operators.linear(weights.head()), adapted, ((0, HEAD), 0)),
            shard.vocabulary_sizes, collectives, scale=a.logit_scale,
            cap=a.logit_cap,
        ),
        operators=operators,
        adapted=adapted,
    )  # fmt: skip


def _mlp(weights: Prepared, layer: int, collectives: Collectives, operators: Operators, adapted: Grouped) -> Layer:
    activation, experts = weights.architecture.activation, weights.architecture.experts_of(layer)
    if experts is None:
        out = AdaptedLinear(operators.linear(weights.down(layer)), adapted, ((layer, "down"), 0))
        both = AdaptedLinear(
            operators.linear(weights.gate_up(layer)),
            adapted,
            ((layer, "gate"), 0),
            ((layer, "up"), len(weights.shard.intermediate)),
        )
        return GatedMlp(both, RowParallelLinear(out, collectives), operators.activate(activation))
    mine = weights.shard.experts
    gate_up, downs = zip(*(weights.expert(layer, number) for number in mine), strict=True) if mine else ((), ())
    return ExpertMlp(
        operators.linear(weights.router(layer)),
        operators.mixture(Experts(mine, gate_up, downs), activation),
        chosen=experts.chosen,
        normalised=experts.normalised,
        collectives=collectives,
    )
