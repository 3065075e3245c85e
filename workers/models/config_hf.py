"""A Hugging Face directory's config.json and generation_config.json, typed, and what is the same in all families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from workers.models.architecture import Architecture, Experts
from workers.models.rope import Rope, longrope_magnitude
from workers.weights.source import WeightsError

Ids = int | list[int] | None
SLIDING, FULL = "sliding_attention", "full_attention"


class RopeConfig(msgspec.Struct):
    """`rope_scaling` of transformers 4, `rope_parameters` of transformers 5, which may hold one for each layer type."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    attention_factor: float | None = None
    full_attention: RopeConfig | None = None
    sliding_attention: RopeConfig | None = None


class _Generation(msgspec.Struct):
    eos_token_id: Ids = None


class HfConfig(msgspec.Struct):
    """The keys of config.json that matter here; defaults are transformers' own."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    hidden_activation: str | None = None
    tie_word_embeddings: bool | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float = 10_000.0
    rope_scaling: RopeConfig | None = None
    rope_parameters: RopeConfig | None = None
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int = 6
    use_sliding_window: bool = False
    max_window_layers: int = 0
    use_bidirectional_attention: bool | None = None
    query_pre_attn_scalar: float = 256.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    num_experts: int | None = None
    num_local_experts: int | None = None
    num_experts_per_tok: int = 2
    moe_intermediate_size: int | None = None
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] | None = None
    bos_token_id: int | None = None
    eos_token_id: Ids = None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`eos_token_id` as a tuple."""
        ids = self.eos_token_id
        return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)

    @property
    def dims_of_head(self) -> int:
        """Given, or what hidden size and heads make of it."""
        return self.head_dim or self.hidden_size // max(self.num_attention_heads, 1)

    def windows(self, path: Path, slides: Callable[[int], bool]) -> tuple[int, ...]:
        """`Architecture.windows`: of the layers that `layer_types` names or, where there is none, that `slides` tells.

        Raises:
            WeightsError: a layer of another type.
        """
        types = self.layer_types or [SLIDING if slides(layer) else FULL for layer in range(self.num_hidden_layers)]
        if other := set(types) - {SLIDING, FULL}:
            raise WeightsError(path, f"layers of type {min(other)!r} are not supported ({FULL} and {SLIDING} are)")
        if len(types) != self.num_hidden_layers:
            raise WeightsError(path, f"layer_types names {len(types)} layers of {self.num_hidden_layers}")
        if not self.sliding_window or SLIDING not in types:
            return ()
        return tuple(self.sliding_window if kind == SLIDING else 0 for kind in types)

    def experts(self, normalised: bool) -> Experts:
        """The mixture of experts that the keys describe."""
        layers = range(self.num_hidden_layers)
        sparse = [layer for layer in layers if (layer + 1) % self.decoder_sparse_step == 0]
        return Experts(
            count=self.num_experts or self.num_local_experts or 0,
            chosen=self.num_experts_per_tok,
            intermediate=self.moe_intermediate_size or self.intermediate_size,
            normalised=normalised,
            dense=tuple(sorted({*layers} - {*sparse} | {*(self.mlp_only_layers or ())})),
        )

    def rope(self, path: Path, given: RopeConfig | None = None) -> Rope:
        """Its rotary embedding, or the one that `given` describes.

        Raises:
            WeightsError: of a kind that is not supported.
        """
        given = given or self.rope_parameters or self.rope_scaling or RopeConfig()
        kind = given.rope_type or given.type or "default"
        theta = given.rope_theta or self.rope_theta or 10_000.0
        original = given.original_max_position_embeddings or self.original_max_position_embeddings
        rotated = int(self.dims_of_head * (given.partial_rotary_factor or self.partial_rotary_factor))
        rotated = 0 if rotated == self.dims_of_head else rotated
        if kind == "default":
            return Rope(theta, rotated=rotated)
        if kind == "linear":
            return Rope(theta, "linear", factor=given.factor or 1.0, rotated=rotated)
        if kind == "llama3":
            return Rope(
                theta,
                "llama3",
                factor=given.factor or 1.0,
                low_factor=given.low_freq_factor,
                high_factor=given.high_freq_factor,
                original_context=original or 8192,
                rotated=rotated,
            )
        if kind in ("longrope", "su"):
            original = original or self.max_position_embeddings
            factor = given.factor or self.max_position_embeddings / original
            return Rope(
                theta,
                "longrope",
                original_context=original,
                rotated=rotated,
                short=given.short_factor,
                long=given.long_factor,
                context=self.max_position_embeddings,
                magnitude=given.attention_factor or longrope_magnitude(factor, original),
            )
        raise WeightsError(path, f"rope scaling {kind!r} is not supported (default, linear, llama3 and longrope are)")


def read_hf_config(directory: Path) -> HfConfig:
    """Read both files; end-of-sequence ids of the generation config take precedence, as in transformers.

    Raises:
        WeightsError: config.json is missing, not JSON, or lacks a key.
    """
    config = _decode(directory / "config.json", HfConfig)
    generation = directory / "generation_config.json"
    if generation.is_file():
        ids = _decode(generation, _Generation).eos_token_id
        if ids is not None:
            config.eos_token_id = ids
    return config


def read_model_type(directory: Path) -> str:
    """Of config.json, before it is known whether the other keys are there.

    Raises:
        WeightsError: config.json is missing, not JSON, or lacks it.
    """
    return _decode(directory / "config.json", _Kind).model_type


def hf_architecture(path: Path, config: HfConfig, name: str) -> Architecture:
    """What a family called `name` has in common with llama.

    Raises:
        WeightsError: it has biases.
    """
    if config.attention_bias or config.mlp_bias:
        raise WeightsError(path, "biases of attention_bias and mlp_bias are not supported")
    heads = config.num_attention_heads
    return Architecture(
        name=name,
        format="safetensors",
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=heads if config.num_key_value_heads is None else config.num_key_value_heads,
        head_dim=config.dims_of_head,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        rms_eps=config.rms_norm_eps,
        rope=config.rope(path),
        tied=bool(config.tie_word_embeddings),
        stop_ids=config.stop_ids,
        bos_id=config.bos_token_id,
    )


class _Kind(msgspec.Struct):
    model_type: str


_T = TypeVar("_T")


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise WeightsError(path, str(error)) from None
