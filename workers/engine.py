"""What computes a model on this host: torch's operators, or the CPU kernels on packed weights. Decided once, at load.

| configuration                                   | computed by                                                       |
|-------------------------------------------------|-------------------------------------------------------------------|
| `dtype = "float32"`, `"bfloat16"`, `"float16"`  | torch, in that dtype: float32 is the exact reference path         |
| a GGUF file, everything "auto"                  | the kernels, on the file's own codes and floats                   |
| a checkpoint of 4 or 8 bits, everything "auto"  | the same                                                          |
| `quantize = "int8"`, `"int4"`                   | the kernels, on floats rounded at load (codes stay as they are)   |
| `deterministic = true`                          | the kernels, on codes or floats                                   |
| `device = "cuda"`                               | the GPU's kernels (`operators.fused`), on what `forms` says       |

KV is in the dtype of this table ("auto" of the kernels is bfloat16), unless `kv_dtype` says another one.

Where the kernels are only the better choice and cannot be had, torch does it; where they are asked for, it is an error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch

from bus.config import ModelConfig
from workers import gpu
from workers.host import Unsuitable, cpu_flags, dtype_of
from workers.kernels.build import NoKernels, library
from workers.kernels.library import attention_of
from workers.kernels.pack import ROUNDING, Kernels, Scheme
from workers.models.architecture import DTYPES, Architecture
from workers.models.config import read_architecture
from workers.pages import KV_DTYPES
from workers.weights.quantised.config import quantisation_of

log = logging.getLogger(__name__)

# Of what the kernels compute. Whatever changes a bit of KV makes this another number, and prefixes are not shared.
_NUMERICS = 3


class Engine(NamedTuple):
    """What computes.

    Attributes:
        dtype: of torch's computation.
        kv: what keys and values are kept as.
        kernels: None where torch computes.
        attention: what the kernels compute it by, on pages of bfloat16 or int8; else empty.
        device: where weights are wanted.
    """

    dtype: torch.dtype
    kv: torch.dtype
    kernels: Kernels | None
    attention: str = ""
    device: torch.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """For people."""
        if self.kernels is None:
            return _name(self.dtype)
        scheme = {"file": "the file's own bits", "floats": "floats, deterministic"}.get(
            self.kernels.scheme, self.kernels.scheme
        )
        return f"{scheme}, attention by {self.attention}" if self.attention else scheme

    @property
    def attends_in(self) -> str:
        """The numbers that attention multiplies, in torch's words."""
        if self.kernels is None:
            return _name(self.dtype)
        return "float32" if self.attention in ("", "FMA") else "bfloat16"

    @property
    def numerics(self) -> bytes:
        """Tells apart engines whose KV of the same model and dtype differs; empty for torch in the dtype of KV."""
        if self.device.type == "cuda":
            return b"cuda 1"
        if self.kernels is None:
            return b"" if self.kv is self.dtype else f"torch {_name(self.dtype)}".encode()
        rounding = f" {ROUNDING}" if self.kernels.scheme == "int4" else ""
        return f"kernels {_NUMERICS} {self.kernels.scheme}{rounding}".encode()


def choose(model: ModelConfig, device: torch.device, threads: int, path: Path) -> Engine:
    """Decide for a model whose files are at `path`. Reads no weights.

    Raises:
        WeightsError: its checkpoint is quantised in a way that is not supported.
        Unsuitable: the configuration asks for the kernels, and they cannot be had.
    """
    if model.device == "cuda":
        _require_gpu(model, device, path)
        return _torch(model, device)
    scheme = _scheme(model, codes=_has_codes(path))
    if scheme is None:
        return _torch(model, device)
    dtype = torch.bfloat16 if model.dtype == "auto" else DTYPES[model.dtype]
    if dtype is torch.float16:
        return without_kernels(model, device, "the CPU kernels do not take float16; bfloat16 and float32 they do")
    try:
        kernels = Kernels(library(cpu_flags()), threads, scheme)
    except NoKernels as problem:
        return without_kernels(model, device, str(problem))
    kv = _kv(model, dtype)
    return Engine(dtype, kv, kernels, "" if kv is torch.float32 else _attention(model, kernels))


def _torch(model: ModelConfig, device: torch.device) -> Engine:
    dtype = dtype_of(model, device)
    return Engine(dtype, _kv(model, dtype), None, device=device)


def _kv(model: ModelConfig, dtype: torch.dtype) -> torch.dtype:
    return dtype if model.kv_dtype == "auto" else KV_DTYPES[model.kv_dtype]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _require_gpu(model: ModelConfig, device: torch.device, path: Path) -> None:
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    quantisation = quantisation_of(path) if path.is_dir() else None
    kv_heads = read_architecture(path).kv_heads
    if problem := gpu.misfit(model, kv_heads=kv_heads, quantisation=quantisation, capability=capability):
        raise Unsuitable(f"model {model.name!r} cannot be served on a GPU as configured: {problem}")


def _attention(model: ModelConfig, kernels: Kernels) -> str:
    found = attention_of(kernels.library)
    if found.refused:
        log.warning(
            "%s: attention is computed by fused multiply-adds, which takes longer: %s sums otherwise on this processor",
            model.name,
            found.refused,
        )
    return found.by


def without_kernels(model: ModelConfig, device: torch.device, problem: str) -> Engine:
    """What computes where the kernels would have, but cannot because of `problem`.

    Raises:
        Unsuitable: the configuration asks for them.
    """
    if model.deterministic or model.quantize in ("int8", "int4"):
        wanted = "deterministic = true" if model.deterministic else f'quantize = "{model.quantize}"'
        raise Unsuitable(f"model {model.name!r}: {wanted} cannot be had: {problem}")
    log.warning("%s: computing with torch, which is slower: %s", model.name, problem)
    return _torch(model, device)


def require_kv(model: ModelConfig, engine: Engine, architecture: Architecture) -> None:
    """That KV can be kept as it is asked for.

    Raises:
        Unsuitable: it cannot. Keys with a bias need it taken out before they become int8, and torch does not do that.
    """
    if engine.kv is torch.int8 and engine.kernels is None and architecture.qkv_bias:
        raise Unsuitable(
            f'model {model.name!r}: kv_dtype = "int8" cannot be had: keys of {architecture.name} have biases, which '
            "only the CPU kernels keep apart, and torch computes this model"
        )


def _has_codes(path: Path) -> bool:
    """Whether there are quantised weights whose bits the kernels can carry."""
    if path.suffix == ".gguf":
        return True
    config = quantisation_of(path) if path.is_dir() else None
    if config is None:
        return False
    from workers.weights.quantised.registry import parser_of  # slow to import, and mostly not needed

    return parser_of(config, path).codes


def _scheme(model: ModelConfig, *, codes: bool) -> Scheme | None:
    if model.quantize in ("int8", "int4"):
        return model.quantize
    if codes and model.quantize == "auto" and model.dtype == "auto":
        return "file"
    return "floats" if model.deterministic else None
