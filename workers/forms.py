"""In which form a GPU has a model's matrices, and what is said of it. Pure, but for the look at config.json.

| `quantize` | of a quantised file                              | of floats                                          |
|------------|--------------------------------------------------|----------------------------------------------------|
| "auto"     | its own numbers; floats where `dtype` is said    | floats                                             |
| "none"     | floats                                           | floats                                             |
| "fp8" ...  | refused (`workers.gpu.misfit`)                   | rounded at load                                    |

What multiplies with them is decided by the GPU: `workers.operators.products`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from bus.config import ModelConfig
from workers.weights.loader import Form
from workers.weights.prepared import Prepared
from workers.weights.quantised.config import quantisation_of

FP8_SINCE: Final = (8, 9)  # compute capability, of products of FP8


def form_of(model: ModelConfig, device: torch.device, path: Path) -> Form | None:
    """Of a model whose files are at `path`; None for floats, and for everything on a CPU.

    Raises:
        workers.weights.source.WeightsError: config.json cannot be read.
    """
    if device.type != "cuda" or model.quantize == "none":
        return None
    if model.quantize != "auto":
        return model.quantize
    if model.dtype != "auto":
        return None
    return "file" if path.suffix == ".gguf" or (path.is_dir() and quantisation_of(path) is not None) else None


def numerics(form: Form | None, capability: tuple[int, int]) -> bytes:
    """Tells apart what makes other KV of the same files: nothing to tell of floats."""
    if form is None:
        return b""
    return f" {form}, FP8 {'products' if capability >= FP8_SINCE else 'as 16 bits'}".encode()


def told(weights: Prepared, capability: tuple[int, int]) -> str:
    """What of a model a GPU serves in another way than its files say; empty where nothing."""
    if capability < FP8_SINCE and any(name.startswith("FP8 with") for name in weights.quantised):
        return (
            f"inputs of FP8 layers stay in 16 bits, and weights become them in registers: compute capability "
            f"{capability[0]}.{capability[1]} has no products of FP8, which come with {FP8_SINCE[0]}.{FP8_SINCE[1]}"
        )
    return ""


def capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) of a CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
