"""Torch's products with the adapters of a step's tokens added, grouped: each adapter's tokens in one pair of products.

Tokens without an adapter are computed as if there were none: they are in the same product of the base, and in no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.layers.linear import Product
from workers.lora.adapter import Adapter
from workers.lora.fit import Key


class Group(NamedTuple):
    """Tokens of one adapter. tokens: ascending indexes, int32."""

    adapter: Adapter
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]]


def grouped(adapters: Sequence[Adapter | None], starts: Sequence[int] | None = None) -> list[Group]:
    """Tokens by adapter.

    Args:
        adapters: of each row.
        starts: where each row begins, and the end; None where a row is one token.
    """
    starts = range(len(adapters) + 1) if starts is None else starts
    found: dict[int, tuple[Adapter, list[range]]] = {}
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            found.setdefault(id(adapter), (adapter, []))[1].append(range(starts[row], starts[row + 1]))
    return [Group(adapter, np.concatenate([np.array(each, np.int32) for each in rows]))
            for adapter, rows in found.values()]  # fmt: skip


class Grouped:
    """Whose tokens are in the step that runs: planned by the model, read by its layers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.now: list[tuple[Adapter, Tensor]] = []

    def plan(self, adapters: Sequence[Adapter | None], starts: Sequence[int] | None = None) -> None:
        """See `grouped`."""
        self.now = [
            (group.adapter, torch.from_numpy(group.tokens).to(self._device)) for group in grouped(adapters, starts)
        ]


class AdaptedLinear:
    """A linear layer and, of each part of its outputs, what adapters add.

    Args:
        linear: of the base.
        groups: of the step.
        parts: of the outputs, and where each begins.
    """

    def __init__(self, linear: Product, groups: Grouped, *parts: tuple[Key, int]) -> None:
        self._linear, self._groups, self._parts = linear, groups, parts

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        out = self._linear(x)
        for adapter, tokens in self._groups.now:
            for key, first in self._parts:
                if (delta := adapter.deltas.get(key)) is not None:
                    added = F.linear(F.linear(x[tokens], delta.a), delta.b).mul_(delta.scale)
                    out[:, first : first + added.shape[1]].index_add_(0, tokens, added)
        return out
