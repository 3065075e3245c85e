"""Phi-3, 3.5 and 4 (arXiv:2404.14219, 2412.08905): llama with q, k, v in one tensor, gate and up in another, in some
models a window over all layers, and a rope that may be longrope or of a part of each head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata
from workers.models.config_hf import HfConfig
from workers.models.families.family import Family


def _hf(config: HfConfig, base: Architecture, path: Path) -> Architecture:
    return replace(base, windows=config.windows(path, lambda _: True))


def _gguf(metadata: Metadata, base: Architecture) -> Architecture:
    window = metadata.integer(".attention.sliding_window", 0)
    return replace(base, windows=(window,) * base.layers if window else ())


PHI3: Final = Family(
    name="phi3",
    gguf_name="phi3",
    hf=_hf,
    gguf=_gguf,
    names={
        "gguf": {"qkv": "blk.{}.attn_qkv", "gate_up": "blk.{}.ffn_up.weight"},
        "safetensors": {
            "qkv": "model.layers.{}.self_attn.qkv_proj",
            "gate_up": "model.layers.{}.mlp.gate_up_proj.weight",
        },
    },
    partial_rope=True,
)
