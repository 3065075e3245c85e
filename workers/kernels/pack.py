"""Codes and floats in the layouts that the kernels read; `native/linear.h` has their definition. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.weights.sharding import GROUP

if TYPE_CHECKING:
    from workers.weights.codes import Codes

PACKING: Final = 2  # of the layouts of native/linear.h; files of another one are made again
ROUNDING: Final = 2  # of floats to 4 bits, `workers.weights.rounding` and its text; as above
LANES: Final = 16
HALVES: Final = 2
BLOCK: Final = HALVES * LANES  # rows
MATRICES: Final = ("q", "k", "v", "out", "gate", "up", "down")  # of a layer, in the kernels' order
Scheme = Literal["file", "floats", "int8", "int4"]  # see `workers.weights.packed`


class Kernels(NamedTuple):
    """The CPU kernels, and what they are to make of weights.

    Attributes:
        library: of `workers.kernels.build`.
        threads: that compute.
    """

    library: Path
    threads: int
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix as the kernels read it, cut into blocks of 32 rows.

    Attributes:
        bits: of a weight: 4, 5, 6, 8 (codes), 16 (bfloat16) or 32 (float32).
        group: inputs that share a scale; 0 for floats.
        rows, inputs: without the rows that fill up the last block.
        offset: of the codes.
        mins: whether each group has a minimum.
        data: uint8, block by block.
        bias: float32 [rows], or None.
    """

    bits: int
    group: int
    rows: int
    inputs: int
    offset: int
    mins: bool
    data: Tensor
    bias: Tensor | None = None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its tensors by name, and one that holds its numbers: what a store keeps."""
        numbers = [self.bits, self.group, self.rows, self.inputs, self.offset, self.mins]
        parts = {"form": torch.tensor(numbers, dtype=torch.int32), "data": self.data, "bias": self.bias}
        return {f"{name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}


def packed(tensors: Mapping[str, Tensor], name: str) -> Packed:
    """The matrix whose `Packed.tensors` these are."""
    bits, group, rows, inputs, offset, mins = tensors[f"{name}.form"].tolist()
    data, bias = tensors[f"{name}.data"], tensors.get(f"{name}.bias")
    return Packed(bits, group, rows, inputs, offset, bool(mins), data, bias)


def pack_codes(matrix: Codes, bias: Tensor | None = None) -> Packed:
    """Lay codes out for integer products: [block, 32 inputs] records of codes, scales and mins."""
    rows, inputs = matrix.codes.shape
    # [block, half, lane, group, operand, byte] to [block, group, operand, half, lane, byte]
    cut = _by_block(matrix.codes).reshape(-1, HALVES, LANES, inputs // GROUP, 8, 4).transpose(0, 3, 4, 1, 2, 5)
    operands = np.ascontiguousarray(cut).reshape(*cut.shape[:4], 64)
    records = operands.shape[:2]
    if matrix.bits == 8:
        parts = [operands]
    else:
        nibbles = operands & np.uint8(15)
        parts = [nibbles[:, :, 0::2] | nibbles[:, :, 1::2] << np.uint8(4)]
        for bit in range(4, matrix.bits):
            masks = np.packbits(operands >> bit & 1, axis=-1, bitorder="little")
            parts.append(np.ascontiguousarray(masks.swapaxes(2, 3)))  # [block, group, half, operand, byte]
    for values in (matrix.scales, matrix.mins):
        if values is not None:
            parts.append(_by_group(values, records))
    data = np.concatenate([part.reshape(*records, -1) for part in parts], -1)
    return Packed(
        matrix.bits, matrix.group, rows, inputs, matrix.offset, matrix.mins is not None,
        torch.from_numpy(data.reshape(-1)), bias,
    )  # fmt: skip


def pack_floats(weight: Tensor, bias: Tensor | None = None) -> Packed:
    """Lay a bfloat16 or float32 matrix [rows, inputs] out; inputs is even."""
    rows, inputs = weight.shape
    filled = torch.zeros(-(-rows // BLOCK) * BLOCK, inputs, dtype=weight.dtype)
    filled[:rows] = weight
    laid = filled.view(-1, BLOCK, inputs).transpose(1, 2).contiguous()
    return Packed(8 * weight.element_size(), 0, rows, inputs, 0, False, laid.view(-1).view(torch.uint8), bias)


def _by_group(values: npt.NDArray[np.float32], records: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[rows, groups] to the bytes of float16 [block, 32 inputs, group, row]."""
    blocks, steps = records
    laid = _by_block(values).reshape(blocks, BLOCK, steps, -1).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(laid, dtype=np.float16).view(np.uint8)


def _by_block(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows filled up to a multiple of 32 with zeros."""
    missing = -len(rows) % BLOCK
    return np.concatenate((rows, np.zeros((missing, rows.shape[1]), rows.dtype))) if missing else rows
