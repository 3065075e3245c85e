"""Tiny quantised checkpoints in the layouts that their tools write, packed here by loops that read like the layouts.

`quantised` takes a model of `tiny`, rounds its linear layers, writes them in a format, and leaves in the model what the
rounded numbers stand for: so the model is the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Written = tuple[Tensor, dict[str, Tensor]]  # what it stands for, and the tensors
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def rounded(weight: Tensor, bits: int, group: int, *, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [rows, inputs], scales and zeros [rows, groups], all such that float16 holds the scales."""
    grouped = weight.unflatten(1, (-1, group))
    top = (1 << bits) - 1
    if symmetric:
        scales = (grouped.abs().amax(-1) / (top // 2)).half().float()
        zeros = torch.full_like(scales, top // 2 + 1)
    else:
        least = grouped.amin(-1).clamp(max=0)
        scales = ((grouped.amax(-1).clamp(min=0) - least) / top).half().float()
        zeros = (-least / scales).round().clamp(0, top)
        zeros[0] = 0  # some file will
    codes = (grouped / scales[..., None] + zeros[..., None]).round().clamp(0, top)
    return codes.flatten(1).int(), scales, zeros.int()


def stands_for(codes: Tensor, scales: Tensor, zeros: Tensor, group_of: Tensor) -> Tensor:
    """The weights, [rows, inputs]."""
    return (codes - zeros[:, group_of]).float() * scales[:, group_of]


def words(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[any, columns] to int32 words of the last dimension: value `order[i]` of a word's values in its i-th bits."""
    count = 32 // bits
    packed = torch.zeros(len(codes), codes.shape[1] // count, dtype=torch.int64)
    for place, column in enumerate(order or range(count)):
        packed |= codes[:, column::count].long() << bits * place
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()


def gptq(weight: Tensor, bits: int = 4, group: int = 32, *, symmetric: bool = True, order: bool = False,
         version: int = 1) -> Written:  # fmt: skip
    inputs = weight.shape[1]
    places = torch.randperm(inputs, generator=torch.Generator().manual_seed(1)) if order else torch.arange(inputs)
    codes, scales, zeros = rounded(weight[:, places], bits, group, symmetric=symmetric)
    group_of = torch.empty(inputs, dtype=torch.int64)
    group_of[places] = torch.arange(inputs) // group
    back = torch.empty_like(codes)
    back[:, places] = codes
    return stands_for(back, scales, zeros, group_of), {
        "qweight": words(back, bits).T.contiguous(),
        "qzeros": words(((zeros - (2 - version)) % (1 << bits)).T.contiguous(), bits),
        "scales": scales.T.contiguous().half(),
        "g_idx": group_of.int(),
    }


def awq(weight: Tensor, group: int = 32) -> Written:
    codes, scales, zeros = rounded(weight, 4, group, symmetric=False)
    group_of = torch.arange(weight.shape[1]) // group
    return stands_for(codes, scales, zeros, group_of), {
        "qweight": words(codes.T.contiguous(), 4, AWQ_ORDER),
        "qzeros": words(zeros.T.contiguous(), 4, AWQ_ORDER),
        "scales": scales.T.contiguous().half(),
    }


def packed(weight: Tensor, bits: int = 4, group: int = 32, *, symmetric: bool = True) -> Written:
    codes, scales, zeros = rounded(weight, bits, group, symmetric=symmetric)
    found = {
        "weight_packed": words(codes, bits),
        "weight_scale": scales.half(),
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if not symmetric:
        found["weight_zero_point"] = words(zeros.T.contiguous(), bits).T.contiguous()
    return stands_for(codes, scales, zeros, torch.arange(weight.shape[1]) // group), found


def int8(weight: Tensor) -> Written:
    codes, scales, zeros = rounded(weight, 8, weight.shape[1], symmetric=True)
    signed = (codes - zeros).clamp(-127, 127).to(torch.int8)
    return signed.float() * scales, {"weight": signed, "weight_scale": scales}


def fp8(weight: Tensor, scale: str = "weight_scale", block: int = 0, *, rows: bool = False) -> Written:
    height, width = weight.shape
    if block:
        tall, wide = -(-height // block), -(-width // block)
        filled = torch.zeros(tall * block, wide * block)
        filled[:height, :width] = weight
        scales = filled.view(tall, block, wide, block).abs().amax((1, 3)) / 448
        spread = scales.repeat_interleave(block, 0)[:height].repeat_interleave(block, 1)[:, :width]
    elif rows:
        scales = spread = weight.abs().amax(1, keepdim=True) / 448
    else:
        scales = (weight.abs().amax() / 448).reshape(1)
        spread = scales.reshape(1, 1)
    small = (weight / spread).to(torch.float8_e4m3fn)
    found = {"weight": small, scale: scales}
    if not block:
        found["input_scale"] = torch.ones(1)
    return small.float() * spread, found


def quantised(model: Any, path: Path, config: dict[str, Any], write: Callable[[Tensor], Written]) -> Path:
    """Write `model` with all linear layers but the head in a format, and round it itself."""
    model.save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    state = dict(model.named_parameters())
    for name in list(tensors):
        if not name.endswith("_proj.weight"):
            continue
        stands, parts = write(tensors.pop(name))
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
        with torch.no_grad():
            state[name].copy_(stands)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**described, "quantization_config": config}))
    return path


def compressed(format_: str, bits: int, kind: str, strategy: str, **weights: Any) -> dict[str, Any]:
    """`quantization_config` as llm-compressor writes it."""
    arguments = {
        "num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False, "group_size": None,
        "observer": "minmax", **weights,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": arguments, "input_activations": None}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }
