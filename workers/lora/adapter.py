"""One adapter in memory, a rank's share of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from workers.kernels import library as c
from workers.kernels.pack import LANES, MATRICES
from workers.lora.fit import HEAD, Key


class Delta(NamedTuple):
    """What is added to one part's product: `scale * b @ (a @ x)`. a: [rank, inputs], b: [outputs, rank]."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.a.nbytes + self.b.nbytes


class Lows(NamedTuple):
    """The same for the kernels: `native/lora.h`, Low, by layer and part, the head last; and the tensors behind them."""

    table: object
    kept: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.nbytes for tensor in self.kept)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter.

    Attributes:
        name: for messages.
        digest: of its files' bytes, 16 bytes: KV that was computed with it is found by this.
        deltas: for torch; empty where the kernels compute.
        lows: for the kernels; None where torch computes.
    """

    name: str
    digest: bytes
    deltas: Mapping[Key, Delta] = field(default_factory=dict)
    lows: Lows | None = None

    @property
    def bytes(self) -> int:
        """That it takes."""
        return sum(delta.bytes for delta in self.deltas.values()) + (self.lows.bytes if self.lows is not None else 0)


_NONE: Final = c.Low(None, None, 0, 0, 0, 0.0)


def lows(deltas: Mapping[Key, Delta], layers: int) -> Lows:
    """Lay float32 deltas out for the kernels. What bfloat16 holds exactly is kept as that."""
    keys = [(layer, part) for layer in range(layers) for part in MATRICES] + [(0, HEAD)]
    kept: list[Tensor] = []
    found: list[c.Low] = []
    for key in keys:
        if (delta := deltas.get(key)) is None:
            found.append(_NONE)
            continue
        a, b = _by_lanes(delta.a), _by_lanes(_filled(delta.b, 1))
        if all(bool((each.bfloat16().float() == each).all()) for each in (a, b)):
            a, b = a.bfloat16(), b.bfloat16()
        kept += (a, b)
        rank = a.shape[0] * LANES
        found.append(c.Low(a.data_ptr(), b.data_ptr(), rank, len(delta.b), 8 * a.element_size(), delta.scale))
    return Lows((c.Low * len(found))(*found), tuple(kept))


def _filled(matrix: Tensor, dimension: int) -> Tensor:
    """Zeros up to a multiple of 16 along a dimension."""
    missing = -matrix.shape[dimension] % LANES
    if not missing:
        return matrix
    shape = list(matrix.shape)
    shape[dimension] = missing
    return torch.cat((matrix, matrix.new_zeros(shape)), dimension)


def _by_lanes(matrix: Tensor) -> Tensor:
    """[rows, inputs] to [rows / 16, inputs, 16]."""
    return _filled(matrix, 0).view(-1, LANES, matrix.shape[1]).transpose(1, 2).contiguous()
