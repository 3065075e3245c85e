"""What a worker is to be on this host: which rank of what, where, with how many threads. Decided once, at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from bus.config import Config, ModelConfig
from bus.names import InvalidName, WorkerInstance, parse_process, parse_worker
from workers import gpu
from workers.models.architecture import DTYPES

# Without one of these a CPU converts every bfloat16 to compute with it, and float32 is faster.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


class Unsuitable(ValueError):
    """The configuration asks for what this host does not have. The message says what to do."""


@dataclass(frozen=True)
class Assignment:
    """What one worker process is to be.

    Attributes:
        page_tokens: tokens of a page.
        threads: CPU threads to compute with.
    """

    instance: WorkerInstance
    model: ModelConfig
    device: torch.device
    page_tokens: int
    threads: int

    @property
    def ranks(self) -> int:
        """Ranks of its replica."""
        return self.model.tensor_parallel

    @property
    def in_device_memory(self) -> bool:
        """Whether its pages are in a GPU's memory, or, in tests, in what stands for it."""
        return self.model.device == "cuda"

    @property
    def prefills(self) -> bool | None:
        """Whether it is one of those that prefill for others; None where there are no such pools."""
        return None if self.model.pools is None else self.instance.replica >= self.model.first_prefill


def assign(name: str, config: Config) -> Assignment:
    """What the process of that name is to be.

    Raises:
        InvalidName: the instance is not MODEL.REPLICA.RANK with a replica and a rank that the model has.
        bus.config.ConfigError: there is no such model.
        Unsuitable: it asks for what this host does not have.
    """
    instance = parse_worker(parse_process(name).instance)
    model = config.model_named(instance.model)
    if instance.rank >= model.tensor_parallel or instance.replica >= model.all_replicas:
        raise InvalidName(f"{name}: {model.name!r} has {model.all_replicas} replicas of {model.tensor_parallel} ranks")
    device = device_of(model, instance, config)
    return Assignment(instance, model, device, page_tokens_of(model, device), threads_of(model, config))


def device_of(model: ModelConfig, instance: WorkerInstance, config: Config) -> torch.device:
    """Where a rank of the model computes. "auto" is the CPU.

    Raises:
        Unsuitable: a GPU is asked for, and something that it takes is missing here.
    """
    if model.device != "cuda" or gpu.test_memory():
        return torch.device("cpu")
    gpus = gpu.found()
    if problem := gpu.why_not(gpus) or gpu.why_no_group(gpus, model.tensor_parallel):
        raise Unsuitable(f'model {model.name!r} has device = "cuda": {problem}')
    return gpu.device_for(model, instance.replica, config, gpus.found, instance.rank)


def dtype_of(model: ModelConfig, device: torch.device) -> torch.dtype:
    """What the model computes in, and what its KV is."""
    if model.dtype != "auto":
        return DTYPES[model.dtype]
    return torch.bfloat16 if device.type == "cuda" or _BF16_FLAGS & cpu_flags() else torch.float32


def page_tokens_of(model: ModelConfig, device: torch.device) -> int:
    """Tokens of a page."""
    return model.page_tokens or (64 if device.type == "cuda" else 16)


def threads_of(model: ModelConfig, config: Config) -> int:
    """CPU threads of one rank: as configured, or as whoever started it worked out; else an equal share of the cores for
    every rank on this host."""
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(given):
        return model.threads or int(given)
    ranks = sum(each.all_replicas * each.tensor_parallel for each in config.model)
    return model.threads or max(1, len(os.sched_getaffinity(0)) // ranks)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction set extensions of the first core, by the kernel's names."""
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()
