"""Adapters, for the demo model and others, made of random numbers: the same ones for the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INNER, KV = 576, 1536, 192
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (KV, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}


def made(
    path: Path,
    seed: int,
    rank: int = 8,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    layers: Iterable[int] = range(0, 30, 3),
    size: float = 0.05,
) -> Path:
    """A random adapter as PEFT saves one; of SmolLM2, where `shapes` (outputs and inputs by module) says no other."""
    path.mkdir(parents=True)
    drawn = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        for module, (outputs, inputs) in shapes.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=drawn) * size
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=drawn) * size
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "use_rslora": True, "target_modules": [*shapes]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path
