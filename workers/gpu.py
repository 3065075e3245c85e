"""What a model needs of GPUs, and what to say where it is missing. Nothing here falls back to the CPU.

`why_not` and `misfit` decide and are pure; `found` looks at the machine.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import distributed

from bus.config import Config, ModelConfig, parse_size
from workers.weights.quantised.config import Quantisation

# Tests have no GPU: with this, `device = "cuda"` computes on the CPU with torch, and keeps its pages in so much
# ordinary memory apart from the arena. Everything between plans and pages is what a GPU has.
TEST_MEMORY: Final = "HEADRACE_TEST_DEVICE_MEMORY"
_SINCE: Final = (8, 0)


class Gpus(NamedTuple):
    """What this process has of GPUs.

    Attributes:
        torch: version; `built_for` the CUDA that it is built with, empty for none.
        driver: whether the kernel has NVIDIA's.
        found: how many torch finds.
        triton: whether it is installed.
        nccl: whether torch is built with it.
    """

    torch: str
    built_for: str
    driver: bool
    found: int
    triton: bool
    nccl: bool = True


def found() -> Gpus:
    """On this machine."""
    cuda = torch.version.cuda or ""
    return Gpus(
        torch.__version__,
        cuda,
        Path("/dev/nvidiactl").exists(),
        torch.cuda.device_count() if cuda else 0,
        find_spec("triton") is not None,
        distributed.is_available() and distributed.is_nccl_available(),
    )


def why_not(gpus: Gpus) -> str:
    """What is missing for any model; empty where nothing is."""
    if not gpus.built_for:
        return (
            f"torch {gpus.torch} is built without CUDA: install the build for CUDA "
            "(pip install --index-url https://download.pytorch.org/whl/cu130 torch)"
        )
    if not gpus.driver:
        return "there is no NVIDIA driver (/dev/nvidiactl is missing): install it, or load its kernel module"
    if not gpus.found:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = f"; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
        return (
            f"torch {gpus.torch} for CUDA {gpus.built_for} finds no GPU, though there is a driver{hint}: see nvidia-smi"
        )
    if not gpus.triton:
        return "Triton is missing: pip install 'headrace[gpu]'"
    return ""


def why_no_group(gpus: Gpus, ranks: int) -> str:
    """What is missing for a model that is served by so many ranks, each on a GPU of its own; empty where nothing is."""
    if ranks == 1:
        return ""
    if not gpus.nccl:
        return (
            f"tensor_parallel = {ranks} takes NCCL, which torch {gpus.torch} is built without: install a build for "
            "Linux from https://download.pytorch.org/whl"
        )
    if gpus.found < ranks:
        there = "is 1" if gpus.found == 1 else f"are {gpus.found}"
        return f"tensor_parallel = {ranks} takes so many GPUs, and there {there}"
    return ""


def misfit(model: ModelConfig, *, kv_heads: int, quantisation: Quantisation | None, capability: tuple[int, int]) -> str:
    """Why a model cannot be served on a GPU as it is configured; empty where it can.

    Args:
        kv_heads: of all ranks.
        quantisation: of its checkpoint.
        capability: compute capability of the GPU, (9, 0) for Hopper.
    """
    ranks = model.tensor_parallel
    if kv_heads % ranks:
        return f"tensor_parallel = {ranks} does not divide its {kv_heads} KV heads"
    if model.standby:
        return "standby = 1 would keep its weights in device memory a second time"
    if model.deterministic:
        return "deterministic = true is of the CPU kernels"
    if quantisation is not None and model.quantize not in ("auto", "none"):
        return f'quantize = "{model.quantize}" rounds floats, and its checkpoint is {quantisation.quant_method} already'
    if capability < _SINCE:
        return (
            f"the kernels are for GPUs since compute capability {_SINCE[0]}.{_SINCE[1]}; this one has "
            f"{capability[0]}.{capability[1]}"
        )
    return ""


def test_memory() -> int:
    """Bytes of the memory that stands for a GPU's in tests; 0 where nothing does."""
    return parse_size(os.environ.get(TEST_MEMORY, "0"))


def device_for(model: ModelConfig, replica: int, config: Config, count: int, rank: int = 0) -> torch.device:
    """The GPU of a rank: each has one of its own as long as there are enough, in the order of the configuration, and
    the ranks of a replica always have different ones, of which there are as many."""
    before = 0
    for each in config.model:
        if each.name == model.name:
            break
        before += each.all_replicas * each.tensor_parallel if each.device == "cuda" else 0
    return torch.device("cuda", (before + replica * model.tensor_parallel + rank) % count)
