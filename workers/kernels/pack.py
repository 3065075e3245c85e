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

PACKING: Final = 1  # of the layouts of native/linear.h; files of another one are made again
LANES: Final = 16
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
    """A matrix as the kernels read it, cut into blocks of 16 rows.

    Attributes:
        bits: of a weight: 4, 5, 6, 8 (codes), 16 (bfloat16) or 32 (float32).
        group: inputs that share a scale; 0 for floats.
        rows, inputs: without the rows that fill up the last block.
        offset: of the codes.
        codes: uint8, all of them.
        scales, mins: float16 [blocks, inputs / group, 16], or None.
        bias: float32 [rows], or None.
    """

    bits: int
    group: int
    rows: int
    inputs: int
    offset: int
    codes: Tensor
    scales: Tensor | None = None
    mins: Tensor | None = None
    bias: Tensor | None = None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its tensors by name, and one that holds its numbers: what a store keeps."""
        numbers = torch.tensor([self.bits, self.group, self.rows, self.inputs, self.offset], dtype=torch.int32)
        parts = {"form": numbers, "codes": self.codes, "scales": self.scales, "mins": self.mins, "bias": self.bias}
        return {f"{name}.{part}": tensor for part, tensor in parts.items() if tensor is not None}


def packed(tensors: Mapping[str, Tensor], name: str) -> Packed:
    """The matrix whose `Packed.tensors` these are."""
    bits, group, rows, inputs, offset = tensors[f"{name}.form"].tolist()
    scales, mins, bias = (tensors.get(f"{name}.{part}") for part in ("scales", "mins", "bias"))
    return Packed(bits, group, rows, inputs, offset, tensors[f"{name}.codes"], scales, mins, bias)


def pack_codes(matrix: Codes, bias: Tensor | None = None) -> Packed:
    """Lay codes out for integer products."""
    rows, inputs = matrix.codes.shape
    # [block, lane, group, operand, byte] to [block, group, operand, lane, byte]
    blocks = _by_block(matrix.codes).reshape(-1, LANES, inputs // GROUP, 8, 4).transpose(0, 2, 3, 1, 4)
    operands = np.ascontiguousarray(blocks).reshape(*blocks.shape[:3], 64)
    if matrix.bits < 8:
        nibbles = operands & np.uint8(15)
        parts = [(nibbles[:, :, 0::2] | nibbles[:, :, 1::2] << np.uint8(4)).reshape(*operands.shape[:2], 256)]
        for bit in range(4, matrix.bits):
            masks = np.packbits(operands >> bit & 1, axis=-1, bitorder="little")
            parts.append(masks.reshape(*operands.shape[:2], 64))
        operands = np.concatenate(parts, -1)
    return Packed(
        matrix.bits, matrix.group, rows, inputs, matrix.offset, torch.from_numpy(operands.reshape(-1)),
        _lanes(matrix.scales), None if matrix.mins is None else _lanes(matrix.mins), bias,
    )  # fmt: skip


def pack_floats(weight: Tensor, bias: Tensor | None = None) -> Packed:
    """Lay a bfloat16 or float32 matrix [rows, inputs] out; inputs is even."""
    rows, inputs = weight.shape
    filled = torch.zeros(-(-rows // LANES) * LANES, inputs, dtype=weight.dtype)
    filled[:rows] = weight
    laid = filled.view(-1, LANES, inputs).transpose(1, 2).contiguous()
    return Packed(8 * weight.element_size(), 0, rows, inputs, 0, laid.view(-1).view(torch.uint8), bias=bias)


def _lanes(values: npt.NDArray[np.float32]) -> Tensor:
    """[rows, groups] to float16 [blocks, groups, 16]."""
    blocks = _by_block(values).reshape(-1, LANES, values.shape[1]).transpose(0, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(blocks, dtype=np.float16))


def _by_block(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows filled up to a multiple of 16 with zeros."""
    missing = -len(rows) % LANES
    return np.concatenate((rows, np.zeros((missing, rows.shape[1]), rows.dtype))) if missing else rows
