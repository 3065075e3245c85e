"""What a model is, in numbers: `Architecture`. No weights, no file formats; reading one from files is `config`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch

from bus.messages.steps import KvShape
from workers.models.rope import Rope
from workers.pages import KV_DTYPES

Format = Literal["gguf", "safetensors"]
Activation = Literal["silu", "gelu_tanh"]
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KV_NAMES: Final = {dtype: name for name, dtype in KV_DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Mixtures of experts (arXiv:2401.04088) in place of MLPs.

    Attributes:
        count: of a layer.
        chosen: that compute a token.
        intermediate: width of each.
        normalised: the weights of the chosen ones add up to 1.
        dense: layers that have an MLP all the same.
    """

    count: int
    chosen: int
    intermediate: int
    normalised: bool = True
    dense: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder-only transformer with grouped-query attention, rotary positions, RMS norms and gated MLPs or experts.

    The defaults are llama's. What a family has beside it is a field here, and never a class: `wiring` builds every
    decoder, and `packed.misfit` says what the kernels lack.

    Attributes:
        name: its family, a key of `workers.models.families.FAMILIES`.
        format: of the files it was read from.
        hidden, intermediate: widths of the residual stream and of the MLP.
        heads, kv_heads, head_dim: of attention; `heads` is a multiple of `kv_heads`.
        vocabulary: rows of the embedding, so every token id is below it.
        context: most tokens of a sequence.
        tied: the output head is the embedding.
        stop_ids: tokens that end a sequence, in the order the files declare them.
        bos_id: the token that begins one, where the files name it.
        windows: tokens that each layer's attention sees, the token itself included; 0 is all. Empty: all layers, all.
        local_rope: of the layers with a window, where it is another one.
        qk_norm: queries and keys are normed, head by head, before they are rotated.
        post_norms: what attention and MLP add to the residual stream is normed too.
        norm_offset: the weights of norms are stored as their distance from 1, and multiply in float32.
        activation: of the gate.
        experts: None where every layer has an MLP.
        query_scale: of scores; 0 is `head_dim ** -0.5`.
        score_cap, logit_cap: soft limits of scores and logits, `cap * tanh(x / cap)`; 0 is none.
        embedding_scale, residual_scale, logit_scale: multiply what the embedding gives, what is added to the residual
            stream, and the logits.
    """

    name: str
    format: Format
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rms_eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool = False
    stop_ids: tuple[int, ...] = field(default=())
    bos_id: int | None = None
    windows: tuple[int, ...] = ()
    local_rope: Rope | None = None
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    activation: Activation = "silu"
    experts: Experts | None = None
    query_scale: float = 0.0
    score_cap: float = 0.0
    logit_cap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    @property
    def parameters(self) -> int:
        """Of the whole model; an embedding that is the head as well counts once."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        bias = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        norms = self.hidden * (4 if self.post_norms else 2) + (2 * self.head_dim if self.qk_norm else 0)
        mlps = sum(map(self._mlp_parameters, range(self.layers)))
        outer = self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden
        return self.layers * (attention + bias + norms) + mlps + outer

    def window(self, layer: int) -> int:
        """Tokens that a layer's attention sees; 0 is all."""
        return self.windows[layer] if self.windows else 0

    def experts_of(self, layer: int) -> Experts | None:
        """Of one layer; None where it has an MLP."""
        return None if self.experts is None or layer in self.experts.dense else self.experts

    def serving(self, context: int) -> Architecture:
        """The model as it is served with sequences of up to so many tokens; 0 is `context`."""
        return replace(self, rope=replace(self.rope, context=context or self.context))

    def _mlp_parameters(self, layer: int) -> int:
        experts = self.experts_of(layer)
        if experts is None:
            return 3 * self.hidden * self.intermediate
        return experts.count * (3 * self.hidden * experts.intermediate + self.hidden)


def kv_shape(architecture: Architecture, page_tokens: int, dtype: torch.dtype) -> KvShape:
    """The shape of a page, for all ranks together.

    A page holds all layers, those with a window too. So a page is whole as long as it lives, and is found by its digest
    whatever else is computed after it. What a running sequence does without behind its window: `workers.step.windows`.
    """
    return KvShape(
        layers=architecture.layers,
        kv_heads=architecture.kv_heads,
        page_tokens=page_tokens,
        head_dim=architecture.head_dim,
        dtype=_KV_NAMES[dtype],
    )
