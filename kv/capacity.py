"""How many pages an arena has room for, before there is one. Pure: the same layout and grid that kv itself uses."""

from __future__ import annotations

from typing import NamedTuple

from kv.layout import grid_for, plan_layout

_ROUNDED_TO = 2 << 20  # what `bus.memfd` rounds an arena up to


class Capacity(NamedTuple):
    """An arena with the pages of one model in it alone.

    Attributes:
        arena_bytes: as reserved, rounded up.
        table_bytes: of it that hold no pages: tables and headers, and what is left over at the end.
        stride: bytes from one page to the next.
        pages: that can be leased.
    """

    arena_bytes: int
    table_bytes: int
    slabs: int
    stride: int
    pages: int


def capacity(arena_bytes: int, slab_bytes: int, page_bytes: int) -> Capacity:
    """Of an arena for pages of that size.

    Raises:
        kv.layout.ArenaTooSmall: not even one slab fits.
    """
    size = -(-arena_bytes // _ROUNDED_TO) * _ROUNDED_TO
    layout = plan_layout(size, slab_bytes)
    grid = grid_for(layout, page_bytes)
    pages = sum(len(grid.cells_of(slab)) for slab in range(layout.slabs))
    return Capacity(size, size - layout.data_bytes, layout.slabs, grid.stride, pages)
