"""The kernels' functions and structs through ctypes. Field by field as in `native/`; nothing is decided here."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.kernels.pack import Packed

# Of a step, as `native/decoder.cpp` counts them. A norm includes rounding its output for the products that read it,
# "gate and up" the activation and its rounding.
PARTS: Final = (
    "embedding", "norms", "qkv", "rope and kv write", "attention", "attention out", "gate and up", "down",
    "output head",
)  # fmt: skip
# Of pages, as `native/attention.h` counts what they hold.
NUMBERS: Final = {torch.bfloat16: 0, torch.float32: 1, torch.int8: 2}
REDUCE = ctypes.CFUNCTYPE(None, POINTER(c_float), c_int64)


class Matrix(Structure):
    """`native/linear.h`, Matrix."""

    _fields_ = (
        ("bits", c_int32), ("group", c_int32), ("rows", c_int32), ("inputs", c_int32), ("offset", c_int32),
        ("mins", c_int32), ("data", c_void_p), ("bias", c_void_p),
    )  # fmt: skip


class Layer(Structure):
    """`native/decoder.cpp`, Layer."""

    _fields_ = (
        ("attention_norm", c_void_p), ("mlp_norm", c_void_p), ("q", Matrix), ("k", Matrix), ("v", Matrix),
        ("out", Matrix), ("gate", Matrix), ("up", Matrix), ("down", Matrix),
    )  # fmt: skip


class Model(Structure):
    """`native/decoder.cpp`, Model."""

    _fields_ = (
        ("layers", c_int32), ("hidden", c_int32), ("heads", c_int32), ("kv_heads", c_int32), ("head_dim", c_int32),
        ("intermediate", c_int32), ("vocabulary", c_int32), ("first_id", c_int32), ("eps", c_float),
        ("reserved", c_int32), ("frequencies", c_void_p), ("final_norm", c_void_p), ("embedding", Matrix),
        ("head", Matrix), ("layer", POINTER(Layer)),
    )  # fmt: skip


class Low(Structure):
    """`native/lora.h`, Low."""

    _fields_ = (
        ("a", c_void_p), ("b", c_void_p), ("rank", c_int32), ("rows", c_int32), ("bits", c_int32), ("scale", c_float),
    )  # fmt: skip


class Adapted(Structure):
    """`native/lora.h`, Adapted."""

    _fields_ = (("low", POINTER(Low)), ("tokens", c_void_p), ("count", c_int64))


class Batch(Structure):
    """`native/decoder.cpp`, Batch."""

    _fields_ = (
        ("tokens", c_int32), ("rows", c_int32), ("ids", c_void_p), ("positions", c_void_p), ("page_of", c_void_p),
        ("offset_of", c_void_p), ("row_starts", c_void_p), ("row_context", c_void_p), ("tables", c_void_p),
        ("table_starts", c_void_p), ("pages", c_void_p), ("cell", c_int64), ("layer", c_int64), ("value", c_int64),
        ("kv_head", c_int64), ("page_tokens", c_int32), ("numbers", c_int32), ("adapted", POINTER(Adapted)),
        ("adapters", c_int64),
    )  # fmt: skip


def matrix(packed: Packed) -> Matrix:
    """A packed matrix for the kernels; its tensors must outlive it."""
    return Matrix(
        packed.bits, packed.group, packed.rows, packed.inputs, packed.offset, packed.mins, packed.data.data_ptr(),
        pointer(packed.bias),
    )  # fmt: skip


def pointer(tensor: Tensor | None) -> int | None:
    """Of a contiguous tensor's first number."""
    return None if tensor is None else tensor.data_ptr()


class Attention(NamedTuple):
    """What a library computes attention on pages of bfloat16 by. It looked whether the bits are right, once opened.

    Attributes:
        by: "AMX", "vdpbf16ps" or "FMA", which is right everywhere.
        refused: what gives other bits on this processor, so that "FMA" has to do it; else empty.
    """

    by: str
    refused: str


def attention_of(path: Path) -> Attention:
    """Of a library, which is opened."""
    opened = ctypes.CDLL(str(path))
    opened.headrace_attention.restype = opened.headrace_refused.restype = c_char_p
    return Attention(opened.headrace_attention().decode(), opened.headrace_refused().decode())


class Native:
    """One decoder of the library, with its threads.

    Args:
        path: the library.
        model: must stay as it is, with everything that it points to.
        threads: that compute.
        reduce: adds up, over the ranks, what it is given, in place; None where there is one rank.
    """

    def __init__(
        self, path: Path, model: Model, threads: int, reduce: Callable[[npt.NDArray[np.float32]], None] | None = None
    ) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.headrace_create.restype = c_void_p
        self._failure: BaseException | None = None
        self._reduce = self._callback(reduce) if reduce is not None else REDUCE()
        self._model = model
        self._decoder = c_void_p(self._library.headrace_create(ctypes.byref(model), threads, self._reduce))
        if not self._decoder:
            raise MemoryError("no memory for the CPU kernels' buffers")
        self._library.headrace_spent.restype = POINTER(c_int64)
        self._spent = self._library.headrace_spent(self._decoder)

    def forward(self, batch: Batch, hidden: Tensor) -> None:
        """One step; `hidden` is float32 [tokens, hidden] and is filled."""
        self._check(self._library.headrace_forward(self._decoder, ctypes.byref(batch), c_void_p(hidden.data_ptr())))

    def logits(self, hidden: Tensor, out: Tensor, adapted: object = None, adapters: int = 0) -> None:
        """float32 [rows, hidden] to float32 [rows, vocabulary of this rank]. adapted: `Adapted`, `adapters` of them."""
        self._check(
            self._library.headrace_logits(
                self._decoder, c_void_p(hidden.data_ptr()), c_int32(len(hidden)), c_void_p(out.data_ptr()), adapted,
                c_int32(adapters),
            )
        )  # fmt: skip

    def spent_ns(self) -> dict[str, int]:
        """Time in each part of all steps so far."""
        return dict(zip(PARTS, self._spent[: len(PARTS)], strict=True))

    def linear(self, packed: Packed, x: Tensor, out: Tensor | None = None) -> Tensor:
        """float32 [tokens, inputs] to float32 [tokens, rows], into `out` where it is given."""
        out = torch.empty(len(x), packed.rows) if out is None else out
        self._check(
            self._library.headrace_linear(
                self._decoder, ctypes.byref(matrix(packed)), c_void_p(x.data_ptr()), c_int32(len(x)),
                c_void_p(out.data_ptr()),
            )
        )  # fmt: skip
        return out

    def close(self) -> None:
        """End its threads, give its buffers back."""
        if self._decoder:
            self._library.headrace_destroy(self._decoder)
            self._decoder = c_void_p()

    def __del__(self) -> None:
        self.close()

    def _check(self, code: int) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if code:
            raise MemoryError("no memory for a step of the CPU kernels")

    def _callback(self, reduce: Callable[[npt.NDArray[np.float32]], None]) -> object:
        def call(data: object, count: int) -> None:
            # An exception cannot pass through C: the step runs on with wrong numbers, and is then refused.
            if self._failure is None:
                try:
                    reduce(np.ctypeslib.as_array(data, (count,)))
                except BaseException as error:
                    self._failure = error

        return REDUCE(call)
