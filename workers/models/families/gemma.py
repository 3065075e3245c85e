"""Gemma 2 (arXiv:2408.00118) and the text models of Gemma 3 (arXiv:2503.19786).

Most layers see a window, some see all; what is added to the residual stream is normed too; norms are stored as their
distance from 1. Gemma 2 caps scores and logits; Gemma 3 norms queries and keys, and rotates by another base where it
sees a window.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata
from workers.models.config_hf import HfConfig
from workers.models.families.family import Family
from workers.models.rope import Rope
from workers.weights.source import WeightsError

_LOCAL_THETA: Final = 10_000.0
# Layers of the 27B models, which scale queries by what a head would have if heads made up the hidden size. GGUF files
# do not say so; llama.cpp knows it from the number of layers too.
_LAYERS_27B: Final = {"gemma2": 46, "gemma3": 62}


def _slides(pattern: int, layer: int) -> bool:
    """All but each `pattern`-th layer have a window."""
    return (layer + 1) % pattern != 0


def _common(base: Architecture, *, norm_offset: bool) -> Architecture:
    return replace(
        base, post_norms=True, norm_offset=norm_offset, activation="gelu_tanh", embedding_scale=base.hidden**0.5
    )


def _hf(config: HfConfig, base: Architecture, path: Path, pattern: int) -> Architecture:
    if config.use_bidirectional_attention:
        raise WeightsError(path, "use_bidirectional_attention is not supported")
    return replace(
        _common(base, norm_offset=True),
        windows=config.windows(path, lambda layer: _slides(pattern, layer)),
        query_scale=config.query_pre_attn_scalar**-0.5,
        logit_cap=config.final_logit_softcapping or 0.0,
        tied=config.tie_word_embeddings is not False,  # older files leave it out
    )


def _gguf(metadata: Metadata, base: Architecture, pattern: int, cap: float) -> Architecture:
    window = metadata.integer(".attention.sliding_window")
    given = metadata.integer(".attention.sliding_window_pattern", pattern)
    across = base.hidden / base.heads if base.layers == _LAYERS_27B[base.name] else base.head_dim
    return replace(
        _common(base, norm_offset=False),  # the converter has added the one
        windows=tuple(window if _slides(given, layer) else 0 for layer in range(base.layers)),
        query_scale=metadata.number(".attention.scale", across**-0.5),
        logit_cap=metadata.number(".final_logit_softcapping", cap),
    )


def _gemma2(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(_hf(config, base, path, 2), score_cap=config.attn_logit_softcapping or 0.0)


def _gemma2_gguf(metadata: Metadata, base: Architecture) -> Architecture:
    cap = metadata.number(".attn_logit_softcapping", 50.0)
    return replace(_gguf(metadata, base, 2, 30.0), score_cap=cap)


def _gemma3(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    if config.attn_logit_softcapping:
        raise WeightsError(path, "attn_logit_softcapping is not supported in gemma3 (in gemma2 it is)")
    found = replace(_hf(config, base, path, config.sliding_window_pattern), qk_norm=True)
    both = config.rope_parameters
    if both is None or both.full_attention is None or both.sliding_attention is None:
        rope = found.rope if config.rope_theta else replace(found.rope, theta=1e6)
        return replace(found, rope=rope, local_rope=Rope(config.rope_local_base_freq))
    return replace(
        found, rope=config.rope(path, both.full_attention), local_rope=config.rope(path, both.sliding_attention)
    )


def _gemma3_gguf(metadata: Metadata, base: Architecture) -> Architecture:
    local = Rope(metadata.number(".rope.freq_base_swa", _LOCAL_THETA))
    return replace(_gguf(metadata, base, 6, 0.0), qk_norm=True, local_rope=local)


_NAMES: Final = {
    "safetensors": {
        "post_attention_norm": "model.layers.{}.post_attention_layernorm.weight",
        "mlp_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
        "post_mlp_norm": "model.layers.{}.post_feedforward_layernorm.weight",
    }
}
_ACTIVATIONS: Final = ("gelu_pytorch_tanh",)

GEMMA2: Final = Family(
    name="gemma2", gguf_name="gemma2", hf=_gemma2, gguf=_gemma2_gguf, names=_NAMES, activations=_ACTIVATIONS
)
GEMMA3: Final = Family(
    name="gemma3", hf_name="gemma3_text", gguf_name="gemma3", hf=_gemma3, gguf=_gemma3_gguf, names=_NAMES,
    activations=_ACTIVATIONS,
)  # fmt: skip
