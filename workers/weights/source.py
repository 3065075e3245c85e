"""A file, or a directory of files, that holds named tensors: what the loader needs of it, and how it fails."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from workers.weights.codes import Codes
    from workers.weights.quantised.weight import QuantisedWeight


class WeightsError(Exception):
    """Weight files that cannot be used. The message names the file, the tensor where there is one, and the reason.

    Attributes:
        path: the file or directory.
        tensor: its name in the file, or "".
    """

    def __init__(self, path: Path, problem: str, tensor: str = "") -> None:
        super().__init__(f"{path}: {tensor}: {problem}" if tensor else f"{path}: {problem}")
        self.path, self.tensor = path, tensor


class TensorSource(Protocol):
    """Named tensors in files, read in slices so that a rank touches no more than its share."""

    @property
    def path(self) -> Path:
        """The file or directory, for messages."""
        ...

    def names(self) -> Collection[str]:
        """All tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Outermost dimension first, as torch counts.

        Raises:
            WeightsError: no such tensor.
        """
        ...

    def load(
        self,
        name: str,
        dtype: torch.dtype,
        rows: slice | None = None,
        columns: slice | None = None,
        at: int | None = None,
    ) -> Tensor:
        """A new contiguous tensor of `dtype` on the CPU.

        Args:
            name: which.
            dtype: what it is converted to; quantised tensors are dequantised.
            rows: of the first dimension; None takes all.
            columns: of the second dimension; None takes all.
            at: one matrix of a tensor of three dimensions, whose rows and columns the others are then.

        Raises:
            WeightsError: no such tensor, or its type cannot be read.
        """
        ...

    def quantised(
        self, name: str, rows: slice | Tensor | None = None, columns: slice | None = None, at: int | None = None
    ) -> QuantisedWeight | None:
        """A quantised matrix for a GPU's kernels, in any order of rows; None where it is floats.

        Raises:
            workers.weights.quantised.weight.Unfit: they do not take it.
            WeightsError: no such tensor, its type cannot be read, or the columns cut a group.
        """
        ...

    def codes(self, name: str, rows: slice | None = None) -> Codes | None:
        """A quantised matrix as it is, or some of its rows; None where it is floats, or no kernel could carry it.

        Raises:
            WeightsError: no such tensor, or its type cannot be read.
        """
        ...
