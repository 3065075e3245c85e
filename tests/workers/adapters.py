"""Adapters of tiny models, made with PEFT, and merged into the weights as a second opinion."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def adapted(model: Any, path: Path, seed: int = 1, size: float = 0.1, **config: Any) -> Any:
    """PEFT's model with a random adapter, which is saved at `path`. The model itself stays as it is."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE} | config
    peft: Any = get_peft_model(copy.deepcopy(model), LoraConfig(**options)).eval()
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, size)
    peft.save_pretrained(path)
    return peft


def merged(model: Any, path: Path) -> Any:
    """The model with `scale * B A` added to its weights: what an adapter means, without PEFT. For plain configurations
    only, without patterns."""
    config = json.loads((path / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    tensors = load_file(path / "adapter_model.safetensors")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, a in tensors.items():
            if name.endswith(".lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                b = tensors[name.replace("lora_A", "lora_B")]
                other.get_submodule(module).weight += scale * (b.double() @ a.double()).float()
    return other
