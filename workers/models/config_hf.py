"""A Hugging Face directory's config.json and generation_config.json, typed. What they mean is `config`'s business."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from workers.models.rope import Rope
from workers.weights.source import WeightsError

Ids = int | list[int] | None


class RopeConfig(msgspec.Struct):
    """`rope_scaling` of transformers 4, `rope_parameters` of transformers 5."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    partial_rotary_factor: float = 1.0


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
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: RopeConfig | None = None
    rope_parameters: RopeConfig | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    max_window_layers: int = 0
    bos_token_id: int | None = None
    eos_token_id: Ids = None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`eos_token_id` as a tuple."""
        ids = self.eos_token_id
        return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)

    def rope(self, path: Path) -> Rope:
        """Its rotary embedding.

        Raises:
            WeightsError: of a kind that is not supported.
        """
        given = self.rope_parameters or self.rope_scaling or RopeConfig()
        kind = given.rope_type or given.type or "default"
        theta = given.rope_theta or self.rope_theta or 10_000.0
        if min(given.partial_rotary_factor, self.partial_rotary_factor) != 1.0:
            raise WeightsError(path, "rope over a part of a head (partial_rotary_factor) is not supported")
        if kind == "default":
            return Rope(theta)
        if kind == "linear":
            return Rope(theta, "linear", factor=given.factor)
        if kind == "llama3":
            return Rope(
                theta,
                "llama3",
                factor=given.factor,
                low_factor=given.low_freq_factor,
                high_factor=given.high_freq_factor,
                original_context=given.original_max_position_embeddings,
            )
        raise WeightsError(path, f"rope scaling {kind!r} is not supported (default, linear and llama3 are)")


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


_T = TypeVar("_T")


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise WeightsError(path, f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise WeightsError(path, str(error)) from None
