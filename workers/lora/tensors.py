"""Tensors of a safetensors file that is in memory already. Pure.

Nothing is copied: who reads beside running steps must not hold the interpreter for the time of a copy.

    u64 length of the header | header, JSON: name -> dtype, shape, [begin, end) | bytes
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from mmap import mmap
from typing import Any, Final, TypeAlias

import msgspec
import torch
from torch import Tensor

_MAX_HEADER: Final = 16 << 20
_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


Data: TypeAlias = bytearray | mmap
"""Memory that a file was read into."""


class BadTensors(ValueError):
    """Not a safetensors file."""


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def tensors_of(data: Data) -> dict[str, Tensor]:
    """All tensors, on the memory of `data`.

    Raises:
        BadTensors: it is none, or has something that cannot be.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(_MAX_HEADER, len(data) - 8):
        raise BadTensors("its header is not one")
    begin = 8 + length
    try:
        header = msgspec.json.decode(memoryview(data)[8:begin], type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadTensors(f"its header cannot be read: {error}") from None
    return {name: _tensor(data, begin, name, entry) for name, entry in entries.items()}


def _tensor(data: Data, begin: int, name: str, entry: _Entry) -> Tensor:
    if (dtype := _DTYPES.get(entry.dtype)) is None:
        raise BadTensors(f"{name} is of type {entry.dtype}")
    first, end = entry.data_offsets
    if any(size < 0 for size in entry.shape) or not 0 <= first <= end <= len(data) - begin:
        raise BadTensors(f"{name} lies outside of the file")
    count = prod(entry.shape)
    if count * dtype.itemsize != end - first:
        raise BadTensors(f"{name} has {end - first} bytes, which its shape {list(entry.shape)} does not fit")
    if not count:
        return torch.empty(entry.shape, dtype=dtype)
    if (begin + first) % dtype.itemsize:  # legal, and nobody writes it
        return torch.frombuffer(bytearray(data[begin + first : begin + end]), dtype=dtype).view(entry.shape)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=begin + first).view(entry.shape)
