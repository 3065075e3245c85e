"""What computes a model on this host: torch's operators, or the CPU kernels on packed weights. Decided once, at load.

| configuration                                   | computed by                                                       |
|-------------------------------------------------|-------------------------------------------------------------------|
| `dtype = "float32"`, `"bfloat16"`, `"float16"`  | torch, in that dtype: float32 is the exact reference path         |
| a GGUF file, everything "auto"                  | the kernels, on the file's own codes and floats                   |
| `quantize = "int8"`, `"int4"`                   | the kernels, on floats rounded at load (codes stay as they are)   |
| `deterministic = true`                          | the kernels, on codes or floats                                   |

Where the kernels are only the better choice and cannot be had, torch does it; where they are asked for, it is an error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch

from bus.config import ModelConfig
from workers.host import Unsuitable, cpu_flags, dtype_of
from workers.kernels.build import NoKernels, library
from workers.kernels.library import attention_of
from workers.kernels.pack import Kernels, Scheme
from workers.models.config import DTYPES

log = logging.getLogger(__name__)

# Of what the kernels compute. Whatever changes a bit of KV makes this another number, and prefixes are not shared.
_NUMERICS = 3


class Engine(NamedTuple):
    """What computes.

    Attributes:
        dtype: of KV, and of torch's computation.
        kernels: None where torch computes.
        attention: what the kernels compute it by, on pages of bfloat16; else empty.
    """

    dtype: torch.dtype
    kernels: Kernels | None
    attention: str = ""

    @property
    def name(self) -> str:
        """For people."""
        if self.kernels is None:
            return str(self.dtype).removeprefix("torch.")
        scheme = {"file": "the file's own bits", "floats": "floats, deterministic"}.get(
            self.kernels.scheme, self.kernels.scheme
        )
        return f"{scheme}, attention by {self.attention}" if self.attention else scheme

    @property
    def attends_in(self) -> str:
        """The numbers that attention multiplies, in torch's words."""
        if self.kernels is None:
            return str(self.dtype).removeprefix("torch.")
        return "float32" if self.attention in ("", "FMA") else "bfloat16"

    @property
    def numerics(self) -> bytes:
        """Tells apart engines whose KV of the same model and dtype differs; empty for torch."""
        return b"" if self.kernels is None else f"kernels {_NUMERICS} {self.kernels.scheme}".encode()


def choose(model: ModelConfig, device: torch.device, threads: int, path: Path) -> Engine:
    """Decide for a model whose files are at `path`. Reads none of them.

    Raises:
        Unsuitable: the configuration asks for the kernels, and they cannot be had.
    """
    scheme = _scheme(model, gguf=path.suffix == ".gguf")
    if scheme is None:
        return Engine(dtype_of(model, device), None)
    dtype = torch.bfloat16 if model.dtype == "auto" else DTYPES[model.dtype]
    if dtype is torch.float16:
        return without_kernels(model, device, "the CPU kernels do not take float16; bfloat16 and float32 they do")
    try:
        kernels = Kernels(library(cpu_flags()), threads, scheme)
    except NoKernels as problem:
        return without_kernels(model, device, str(problem))
    return Engine(dtype, kernels, _attention(model, kernels) if dtype is torch.bfloat16 else "")


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
    return Engine(dtype_of(model, device), None)


def _scheme(model: ModelConfig, *, gguf: bool) -> Scheme | None:
    if model.quantize in ("int8", "int4"):
        return model.quantize
    if gguf and model.quantize == "auto" and model.dtype == "auto":
        return "file"
    return "floats" if model.deterministic else None
