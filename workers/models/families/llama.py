"""Llama (arXiv:2302.13971, 2407.21783) and what is wired like it (SmolLM2), Mistral (arXiv:2310.06825) and Mixtral
(arXiv:2401.04088). In GGUF all three are "llama", and Mixtral has experts there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from workers.models.architecture import Architecture
from workers.models.config_hf import HfConfig
from workers.models.families.family import Family

LLAMA: Final = Family(name="llama", gguf_name="llama", permuted=True)


def _mistral(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(base, windows=config.windows(path, lambda _: True))


def _mixtral(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(_mistral(config, base, path), experts=config.experts(normalised=True))


MISTRAL: Final = Family(name="mistral", hf=_mistral)

_EXPERT: Final = "model.layers.{}.block_sparse_moe.experts.{expert}"
MIXTRAL: Final = Family(
    name="mixtral",
    hf=_mixtral,
    names={
        "safetensors": {
            "router": "model.layers.{}.block_sparse_moe.gate.weight",
            "expert_gate": f"{_EXPERT}.w1.weight",
            "expert_up": f"{_EXPERT}.w3.weight",
            "expert_down": f"{_EXPERT}.w2.weight",
        }
    },
)
