"""`native/rounding.h` through ctypes: many rows at once, on as many threads as there are. Nothing is decided here."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from ctypes import Structure, c_int32, c_void_p
from pathlib import Path
from typing import Final

from torch import Tensor

_LANES: Final = 16
_CHUNK: Final = 8 * _LANES  # rows that a thread takes at a time


class _Rounding(Structure):
    """`native/rounding.h`, Rounding."""

    _fields_ = (
        ("inputs", c_int32), ("stride", c_int32), ("weights", c_void_p), ("importance", c_void_p),
        ("feedback", c_void_p), ("codes", c_void_p), ("scales", c_void_p), ("minimums", c_void_p),
    )  # fmt: skip


class Rounder:
    """The library's rounding.

    Args:
        library: of `workers.kernels.build`.
        threads: that compute.
    """

    def __init__(self, library: Path, threads: int) -> None:
        self._library, self._threads = library, threads

    def run(
        self, weights: Tensor, importance: Tensor, feedback: Tensor | None, codes: Tensor, scales: Tensor, mins: Tensor
    ) -> None:
        """Fill codes, scales and minimums of a run of inputs; all are views of whole matrices, whose strides they have.

        Args:
            weights: float32 [rows, inputs].
            importance: float32 [inputs].
            feedback: float32 [inputs, inputs], unit upper triangular.
            codes: uint8 [rows, inputs].
            scales, mins: float32 [rows, inputs / 32].

        Raises:
            MemoryError: there is none for the kernel's buffers.
        """
        kernel = ctypes.CDLL(str(self._library)).headrace_round
        rows, inputs = weights.shape
        run = _Rounding(
            inputs, weights.stride(0), weights.data_ptr(), importance.data_ptr(),
            None if feedback is None else feedback.data_ptr(), codes.data_ptr(), scales.data_ptr(), mins.data_ptr(),
        )  # fmt: skip

        def chunk(begin: int) -> int:
            return int(kernel(ctypes.byref(run), begin, min(begin + _CHUNK, rows)))

        with ThreadPoolExecutor(self._threads) as pool:
            if any(pool.map(chunk, range(0, rows, _CHUNK))):
                raise MemoryError("no memory for rounding weights")
