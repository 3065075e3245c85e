"""The header of a GGUF file: metadata and the table of tensors, checked against the file's length.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. `gguf.GGUFReader` makes a numpy view of every
vocabulary entry and merge, which takes 3 s for 49,000 tokens and 10 s for 152,000; a worker needs none of them, so
arrays of strings are stepped over and only counted.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from workers.weights.source import WeightsError

_MAGIC: Final = b"GGUF"
_DEFAULT_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32: Final = _SCALARS[4]
_U64: Final = _SCALARS[10]


@dataclass(frozen=True, slots=True)
class Strings:
    """An array of strings that was counted, not read. `begin`: of the file, where it lies."""

    count: int
    begin: int = field(default=0, compare=False)


Value = bool | int | float | str | tuple[bool | int | float, ...] | Strings


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is. `shape` has the outermost dimension first; `offset` is from the start of the file."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """All of a header that a worker needs."""

    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Reads forward through a buffer; running over its end is a truncated file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.size = path, data, 0, len(data)

    def take(self, count: int) -> int:
        """Step over `count` bytes and return where they begin."""
        begin = self.at
        if count > self.size - begin:
            raise WeightsError(self.path, f"truncated: the header needs {count} bytes at {begin} of {self.size}")
        self.at = begin + count
        return begin

    def number(self, layout: struct.Struct) -> int | float | bool:
        value: int | float | bool = layout.unpack_from(self.data, self.take(layout.size))[0]
        return value

    def integer(self, layout: struct.Struct) -> int:
        return int(self.number(layout))

    def string(self) -> str:
        length = self.integer(_U64)
        begin = self.take(length)
        try:
            return self.data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise WeightsError(self.path, f"corrupt: the string at {begin} is not UTF-8") from None

    def value(self, kind: int) -> Value:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        raise WeightsError(self.path, f"corrupt: metadata type {kind} at {self.at} does not exist")

    def array(self) -> Value:
        kind, count = self.integer(_U32), self.integer(_U64)
        if kind in _SCALARS:
            layout = _SCALARS[kind]
            begin = self.take(layout.size * count)
            code = layout.format.removeprefix("<")
            return struct.unpack_from(f"<{count}{code}", self.data, begin)
        if kind == _STRING:
            begin = self.at
            self._skip_strings(count)
            return Strings(count, begin)
        raise WeightsError(self.path, f"corrupt: an array of type {kind} at {self.at}")

    def _skip_strings(self, count: int) -> None:
        # There are 300,000 of them in a Qwen file, so this one loop is written for speed.
        at, data, length_at = self.at, self.data, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + length_at(data, at)[0]
        except (struct.error, OverflowError):
            at = self.size + 1
        self.take(at - self.at)


def read_header(path: Path, data: mmap.mmap) -> Header:
    """Read and check the header of a mapped file.

    Raises:
        WeightsError: not a GGUF file, a version or tensor type that is not supported, truncated, or corrupt.
    """
    cursor = _Cursor(path, data)
    if data[: len(_MAGIC)] != _MAGIC:
        raise WeightsError(path, f"not a GGUF file: it begins with {data[: len(_MAGIC)]!r}")
    cursor.take(len(_MAGIC))
    version = cursor.integer(_U32)
    if version not in (2, 3):
        raise WeightsError(path, f"GGUF version {version} is not supported (2 and 3 are; a big-endian file neither)")
    tensor_count, metadata_count = cursor.integer(_U64), cursor.integer(_U64)
    metadata: dict[str, Value] = {}
    for _ in range(metadata_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.integer(_U32))
    found = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise WeightsError(path, f"corrupt: alignment {alignment!r}")
    begin = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, info in found:
        if name in tensors:
            raise WeightsError(path, "corrupt: it is there twice", name)
        end = begin + info.offset + info.nbytes
        if end > len(data):
            raise WeightsError(path, f"truncated: it ends at byte {end}, the file at {len(data)}", name)
        tensors[name] = TensorInfo(info.shape, info.kind, begin + info.offset, info.nbytes)
    return Header(metadata, tensors)


def _tensor(cursor: _Cursor) -> tuple[str, TensorInfo]:
    """One entry of the table, its offset still from the start of the data."""
    name = cursor.string()
    dimensions = cursor.integer(_U32)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise WeightsError(cursor.path, f"corrupt: {dimensions} dimensions", name)
    shape = tuple(cursor.integer(_U64) for _ in range(dimensions))[::-1]
    if 0 in shape:
        raise WeightsError(cursor.path, f"corrupt: shape {list(shape)}", name)
    kind = cursor.integer(_U32)
    offset = cursor.integer(_U64)
    try:
        quantisation = GGMLQuantizationType(kind)
    except ValueError:
        raise WeightsError(cursor.path, f"tensor type {kind} is not known", name) from None
    block, block_bytes = GGML_QUANT_SIZES[quantisation]
    if shape[-1] % block:
        raise WeightsError(
            cursor.path, f"corrupt: {shape[-1]} columns of {quantisation.name} (blocks of {block})", name
        )
    return name, TensorInfo(shape, quantisation, offset, prod(shape) // block * block_bytes)
