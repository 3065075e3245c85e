"""A quantised matrix as all formats have it: numbers, a scale for each row and group of inputs, and a zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.weights.codes import Codes
from workers.weights.sharding import GROUP


class CutGroup(ValueError):
    """A rank's columns of a matrix end within a group of inputs."""


_KERNEL_ZEROS = {4: 8, 8: 128}  # codes below it are negative


@dataclass(frozen=True, slots=True)
class Matrix:
    """`(numbers - zeros) * scales`.

    Attributes:
        numbers: [rows, inputs]; unsigned codes in uint8, or float8.
        scales: [rows, groups] float32.
        zeros: [rows, groups] float32, or one for all.
        bits: of a code; 0 where the numbers are floats.
        group_of: [inputs], the group of each; None where groups are equally many inputs, in order.
    """

    numbers: Tensor
    scales: Tensor
    zeros: Tensor | int
    bits: int
    group_of: Tensor | None = None

    def weights(self) -> Tensor:
        """[rows, inputs] float32."""
        numbers = self.numbers.float()
        zeros = self.zeros if isinstance(self.zeros, int) else self._per_input(self.zeros)
        return (numbers - zeros) * self._per_input(self.scales)

    def take(self, rows: slice | Tensor | None, columns: slice | None) -> Matrix:
        """Some rows, and some columns.

        Raises:
            CutGroup: the columns cut a group.
        """
        rows = slice(None) if rows is None else rows
        begin, end, _ = (columns or slice(None)).indices(self.numbers.shape[1])
        groups, group_of = slice(None), self.group_of
        if (begin, end) != (0, self.numbers.shape[1]):
            if group_of is not None:
                group_of = group_of[begin:end]
            elif self.scales.shape[1] > 1:
                group = self.numbers.shape[1] // self.scales.shape[1]
                if begin % group or end % group:
                    raise CutGroup(f"columns {begin} to {end} cut a group of {group}: use fewer ranks")
                groups = slice(begin // group, end // group)
        zeros = self.zeros if isinstance(self.zeros, int) else self.zeros[rows, groups]
        return Matrix(self.numbers[rows, begin:end], self.scales[rows, groups], zeros, self.bits, group_of)

    def codes(self) -> Codes | None:
        """The same for the CPU kernels, with a scale for each 32 inputs; None where they cannot carry it.

        Scales and minima are rounded to float16 there.
        """
        group = self.numbers.shape[1] // self.scales.shape[1]
        if self.bits not in _KERNEL_ZEROS or self.group_of is not None or group % GROUP:
            return None
        scales = self._per_32(self.scales, group)
        zeros = self.zeros
        if not isinstance(zeros, int) and bool((zeros == _KERNEL_ZEROS[self.bits]).all()):
            zeros = _KERNEL_ZEROS[self.bits]
        if isinstance(zeros, int):
            if zeros != _KERNEL_ZEROS[self.bits]:
                return None
            return Codes(self.bits, GROUP, zeros, self.numbers.numpy(), scales, None)
        if self.bits != 4:
            return None
        return Codes(4, GROUP, 0, self.numbers.numpy(), scales, self._per_32(-zeros * self.scales, group))

    def _per_input(self, values: Tensor) -> Tensor:
        if self.group_of is not None:
            return values[:, self.group_of]
        return values.repeat_interleave(self.numbers.shape[1] // values.shape[1], 1)

    @staticmethod
    def _per_32(values: Tensor, group: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return values.half().float().repeat_interleave(group // GROUP, 1).numpy()


def unpacked(words: Tensor, bits: int) -> Tensor:
    """[rows, words] int32 to [rows, 32 / bits codes for each word] uint8, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return (words[..., None] >> shifts & (1 << bits) - 1).to(torch.uint8).flatten(-2)


def groups_of(inputs: int, group: int) -> Tensor | None:
    """`Matrix.group_of` of groups in order; None where they divide the inputs."""
    return None if inputs % group == 0 else torch.arange(inputs) // group
