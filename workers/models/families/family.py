"""What a declaration of a family is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata
from workers.models.config_hf import HfConfig

FromHf = Callable[[HfConfig, Architecture, Path], Architecture]
FromGguf = Callable[[Metadata, Architecture], Architecture]


def _hf_as_llama(config: HfConfig, base: Architecture, path: Path) -> Architecture:  # noqa: ARG001
    return base


def _gguf_as_llama(metadata: Metadata, base: Architecture) -> Architecture:  # noqa: ARG001
    return base


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        name: ours.
        hf_name: transformers' `model_type`, where it is another one.
        gguf_name: llama.cpp's architecture; empty where its files are those of another family.
        hf, gguf: add the family's own to what it has in common with llama. They raise WeightsError.
        names: of its tensors, by format, where they differ from `workers.weights.names.NAMES`.
        permuted: llama.cpp's converter permutes rows of q and k.
        activations: that config.json may name.
        partial_rope: a part of a head may be rotated.
    """

    name: str
    hf_name: str = ""
    gguf_name: str = ""
    hf: FromHf = _hf_as_llama
    gguf: FromGguf = _gguf_as_llama
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    permuted: bool = False
    activations: tuple[str, ...] = ("silu",)
    partial_rope: bool = False
