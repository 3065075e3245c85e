"""Tensors of a GGUF file, dequantised on the way in or as codes. Names and layouts stay those of the file."""

from __future__ import annotations

import mmap
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from torch import Tensor

from workers.weights.codes import READABLE, Codes, from_gguf
from workers.weights.gguf_header import Header, TensorInfo, read_header
from workers.weights.quantised.weight import QuantisedWeight, Unfit, of_codes
from workers.weights.source import WeightsError

_FLOATS: Final = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
# Dequantising makes several temporaries; with this many weights at once they stay in the L2 cache. Whole tensors take
# 21 ns a weight for Q5_0, chunks 5.6.
_WEIGHTS_AT_ONCE: Final = 128 * 1024


class GgufFile:
    """A `TensorSource` over one memory-mapped file.

    Raises:
        WeightsError: the file cannot be read as GGUF.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise WeightsError(path, str(error)) from None
        header: Header = read_header(path, self._map)
        self.metadata, self._tensors = header.metadata, header.tensors

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._info(name).shape

    def load(
        self,
        name: str,
        dtype: torch.dtype,
        rows: slice | None = None,
        columns: slice | None = None,
        at: int | None = None,
    ) -> Tensor:
        info = self._info(name)
        width = info.shape[-1]
        bytes_per_row = info.nbytes * width // _elements(info.shape)
        raw = np.frombuffer(self._map, np.uint8, info.nbytes, info.offset).reshape(-1, bytes_per_row)
        if len(info.shape) == 1:  # a vector is one row of the file
            return self._decode(name, info, raw, dtype, rows).reshape(-1)
        if at is not None:
            height = info.shape[-2]
            raw = raw[at * height : (at + 1) * height]
        if rows is not None:
            raw = raw[rows]
        return self._decode(name, info, raw, dtype, columns).reshape(len(raw), -1)

    def codes(self, name: str, rows: slice | None = None) -> Codes | None:
        """A quantised matrix as it is, or some of its rows; None where the file has it as floats.

        Raises:
            WeightsError: no such tensor, or its type cannot be read.
        """
        info = self._info(name)
        if info.kind in _FLOATS:
            return None
        if info.kind not in READABLE:
            raise self._unreadable(name, info)
        raw = np.frombuffer(self._map, np.uint8, info.nbytes, info.offset).reshape(info.shape[0], -1)
        return from_gguf(info.kind, raw if rows is None else raw[rows])

    def quantised(
        self, name: str, rows: slice | Tensor | None = None, columns: slice | None = None, at: int | None = None
    ) -> QuantisedWeight | None:
        if self._info(name).kind in _FLOATS:
            return None
        if at is not None:
            raise Unfit("experts of a GGUF file")
        codes = self.codes(name)
        assert codes is not None
        begin, end, _ = (columns or slice(None)).indices(self.shape(name)[1])
        if begin % codes.group or end % codes.group:
            raise WeightsError(
                self.path, f"columns {begin} to {end} cut a group of {codes.group}: use fewer ranks", name
            )
        return of_codes(codes.take(rows.numpy() if isinstance(rows, Tensor) else rows, columns))

    def _unreadable(self, name: str, info: TensorInfo) -> WeightsError:
        readable = ", ".join(sorted(kind.name for kind in (*_FLOATS, *READABLE)))
        return WeightsError(self.path, f"type {info.kind.name} cannot be read (these can: {readable})", name)

    def _decode(
        self,
        name: str,
        info: TensorInfo,
        raw: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
        dtype: torch.dtype,
        columns: slice | None,
    ) -> Tensor:
        """Rows of bytes to rows of weights."""
        width = info.shape[-1]
        columns = columns or slice(0, width)
        out = torch.empty(len(raw), len(range(*columns.indices(width))), dtype=dtype)
        at_once = max(1, _WEIGHTS_AT_ONCE // width)
        for begin in range(0, len(raw), at_once):
            chunk = raw[begin : begin + at_once]
            if info.kind in _FLOATS:
                # The copy is because torch wants writable memory; it is as small as the chunk.
                weights = torch.from_numpy(chunk.copy()).view(_FLOATS[info.kind])
            elif info.kind in READABLE:
                # As one row: gguf takes sixteen rows at a time, and its overhead is per call.
                weights = torch.from_numpy(dequantize(chunk.reshape(1, -1), info.kind)).view(len(chunk), -1)
            else:
                raise self._unreadable(name, info)
            out[begin : begin + at_once] = weights[:, columns]
        return out

    def _info(self, name: str) -> TensorInfo:
        try:
            return self._tensors[name]
        except KeyError:
            raise WeightsError(self.path, "missing", name) from None


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
