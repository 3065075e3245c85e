"""Whether a model fits into memory: asked before it is read, so that the host does not begin to swap or to kill."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from bus.memfd import room_for_memory
from workers.weights.safetensors_dir import file_bytes
from workers.weights.source import TensorSource, WeightsError

if TYPE_CHECKING:
    from workers.kernels.pack import Kernels
    from workers.weights.loader import Form

_BITS: Final = {"int8": 8.5, "int4": 5.0, "floats": 16.0}  # of a weight, with its share of scales
_ONLINE_BITS: Final = {"fp8": 8.1, "int8": 8.1, "int4": 5.0}  # of a GPU's


def require_room(
    source: TensorSource, ranks: int, dtype: torch.dtype, kernels: Kernels | None, form: Form | None = None
) -> None:
    """Refuse what cannot fit.

    Args:
        ranks: that share the weights.
        dtype, kernels, form: what they are kept in.

    Raises:
        WeightsError: there is no room. The message says how much is missing, whose limit it is, and what to do.
    """
    weights = sum(math.prod(source.shape(name)) for name in source.names())
    described: str
    if form is not None:
        needed = file_bytes(source.path) if form == "file" else int(weights * _ONLINE_BITS[form] / 8)
        described = "their own bits" if form == "file" else form
    elif kernels is None:
        needed, described = weights * dtype.itemsize, str(dtype).removeprefix("torch.")
    elif kernels.scheme == "file":
        needed, described = file_bytes(source.path), "their own bits"
    else:
        needed, described = int(weights * _BITS[kernels.scheme] / 8), kernels.scheme
    room = room_for_memory()
    if needed // ranks > room.bytes:
        raise WeightsError(
            source.path,
            f"weights of {needed // ranks >> 20} MiB in {described} do not fit: {room.limit} leaves "
            f"{max(0, room.bytes) >> 20} MiB; serve a smaller model or quantise more, lower [kv] arena, or raise it",
        )
