"""Where a drafter keeps KV of its own: cells of plain memory, shared out among slots. Who was not asked for the longest
gives way; what it loses is computed again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from bus.messages.steps import KvShape
from workers.models.interface import Batch
from workers.step.slots import Ints

PAGE_TOKENS: Final = 16
KV_BYTES: Final = 512 << 20  # address space; memory is taken as it is written


@dataclass(slots=True)
class Holding:
    """What is held of a slot: the cells of its entries, in order."""

    table: list[int] = field(default_factory=list)


H = TypeVar("H", bound=Holding)


class Cells(Generic[H]):
    """Cells, and who holds them.

    Args:
        shape: of a page.
        dtype, device: of the memory.
        tokens: that are ever of use; there are no more cells than for these.
        make: an empty holding.
        room: bytes at most.
    """

    def __init__(
        self,
        shape: KvShape,
        dtype: torch.dtype,
        device: torch.device,
        tokens: int,
        make: Callable[[], H],
        room: int = KV_BYTES,
    ) -> None:
        count = max(1, min(-(-tokens // PAGE_TOKENS), room // shape.page_bytes))
        size = (count, shape.layers, 2, shape.kv_heads, PAGE_TOKENS, shape.head_dim)
        self.pages = torch.zeros(size, dtype=dtype, device=device)
        self._free = list(range(count))
        self._make = make
        self._held: OrderedDict[int, H] = OrderedDict()

    def of(self, slot: int) -> H:
        """What is held of a slot, which is asked for now."""
        held = self._held.get(slot)
        if held is None:
            held = self._held[slot] = self._make()
        self._held.move_to_end(slot)
        return held

    def reach(self, slot: int, entries: int, keep: Container[int]) -> bool:
        """Have cells for so many entries of a slot; False where there is no room even without all others but `keep`."""
        held = self.of(slot)
        short = -(-entries // PAGE_TOKENS) - len(held.table)
        while len(self._free) < short:
            other = next((other for other in self._held if other not in keep), None)
            if other is None:
                return False
            self._free += self._held.pop(other).table
        for _ in range(short):
            held.table.append(self._free.pop())
        return True


class Entries(NamedTuple):
    """Some entries to be computed: those from `first` on of a holding, for tokens at `places` of their sequence."""

    table: Sequence[int]
    first: int
    places: Ints


def batch_of(rows: Sequence[Entries], device: torch.device) -> Batch:
    """A step over entries."""
    columns: tuple[list[Ints], list[Ints], list[Ints]] = ([], [], [])
    starts, contexts = [0], list[int]()
    tables: list[Tensor] = []
    for table, first, places in rows:
        entries = np.arange(first, first + len(places))
        cells = np.array(table[: -(-(first + len(places)) // PAGE_TOKENS)], np.int64)
        values = (places, cells[entries // PAGE_TOKENS], entries % PAGE_TOKENS)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        starts.append(starts[-1] + len(places))
        contexts.append(first + len(places))
        tables.append(torch.from_numpy(cells).to(device))
    positions, pages, offsets = (torch.from_numpy(np.concatenate(column)).to(device) for column in columns)
    return Batch(positions, pages, offsets, starts, contexts, tables)
