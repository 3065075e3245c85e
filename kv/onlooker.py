"""The arena as an onlooker sees it: pools, a map, who holds what. Reads the core, and only what it has counted already:
the work is a few steps a slab and a client, never one a page.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from bus.messages.vitals import MAP_STATES, Holder, PagesView, PoolView
from kv.core import Core
from kv.layout import name_hash
from kv.owners import WriterKey
from kv.pool import Owner, Pool

MAX_CELLS: Final = 2048
MAX_HOLDERS: Final = 128
MAX_NAMES: Final = 1024
_CODE: Final = {state: code for code, state in enumerate(MAP_STATES)}
_PAGES: Final = [_CODE[state] for state in ("free", "cached", "pinned", "leased", "quarantined")]

Shares = npt.NDArray[np.float64]


class Onlooker:
    """Looks at a core.

    Args:
        name: of the process that it is in.
    """

    def __init__(self, core: Core, name: str) -> None:
        self._core, self._name = core, name
        self._names: OrderedDict[int, str] = OrderedDict()  # by the hash that stands for them in the arena
        self._capacities: dict[int, int] = {}  # by stride

    def attached(self, name: str) -> None:
        """A process of that name is there: what it leaves behind is told by its hash only."""
        self._names[name_hash(name)] = name
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def view(self) -> PagesView:
        """Everything but what is on disk."""
        core, layout = self._core, self._core.layout
        states, used, per_cell = arena_map(core)
        pools = tuple(
            PoolView(
                pool.number, _openers(core, pool.number), pool.grid.stride, sum(1 for _ in pool.slabs),
                self._capacity(pool), said.total, said.free, said.leased, said.pinned, said.cached, said.quarantined,
                said.filling,
            )
            for pool, said in zip(core.pools.values(), core.stats().pools, strict=True)
        )  # fmt: skip
        return PagesView(
            self._name, layout.arena_bytes, layout.slab_bytes, layout.slabs, core.slabs.free, pools,
            tuple(islice(self._holders(), MAX_HOLDERS)), states, used, per_cell * layout.slab_bytes, core.settling,
        )  # fmt: skip

    def _capacity(self, pool: Pool) -> int:
        stride = pool.grid.stride
        if stride not in self._capacities:
            self._capacities[stride] = self._core.slabs.capacity(pool)
        return self._capacities[stride]

    def _holders(self) -> Iterator[Holder]:
        """Those that are gone first: they are why somebody looks."""
        for quarantine in self._core.owners.quarantines:
            yield self._gone(quarantine.owner, len(quarantine.pages), quarantine.writers)
        for owner, pages in self._core.orphans.items():
            if pages:
                yield self._gone(owner, len(pages), ())
        for session in self._core.owners.sessions.values():
            yield Holder(
                session.name, session.role, session.epoch, session.pid, len(session.leases), len(session.pins), False
            )

    def _gone(self, owner: Owner, pages: int, writers: Iterable[WriterKey]) -> Holder:
        waits_for = tuple(sorted(self._named(writer[0]) for writer in writers))
        return Holder(self._named(owner[0]), "scheduler", owner[1], 0, pages, 0, True, waits_for)

    def _named(self, hashed: int) -> str:
        return self._names.get(hashed) or (f"unknown {hashed:016x}" if hashed else "unknown")


def arena_map(core: Core) -> tuple[bytes, bytes, int]:
    """States and fill of the map's cells, and how many slabs a cell is."""
    slabs = core.layout.slabs
    per_cell = -(-slabs // MAX_CELLS)
    shares: Shares = np.zeros((-(-slabs // per_cell) * per_cell, len(MAP_STATES)))  # of each slab, by state
    shares[:slabs, _CODE["none"]] = 1.0
    for slab in core.slabs.lost:
        shares[slab] = 0.0
        shares[slab, _CODE["lost"]] = 1.0
    for pool in core.pools.values():
        _enter(pool, shares)
    cells = shares.reshape(-1, per_cell, len(MAP_STATES)).sum(1)
    in_use = cells.copy()
    in_use[:, : _CODE["cached"]] = 0.0
    # What is in use shows: a cell with one page of ten pinned is "pinned", and a tenth full.
    states = np.where(in_use.any(1), in_use.argmax(1), cells.argmax(1))
    whole = np.maximum(cells.sum(1), 1e-9)  # the last cell may be short
    return states.astype(np.uint8).tobytes(), np.ceil(255 * in_use.sum(1) / whole).astype(np.uint8).tobytes(), per_cell


def _enter(pool: Pool, shares: Shares) -> None:
    aside: dict[int, int] = {}
    for cell in pool.quarantined:  # some only while writers of a dead owner live
        slab = pool.grid.slab_of(cell)
        aside[slab] = aside.get(slab, 0) + 1
    for slab, free, cached, pinned, leased in pool.by_slab():
        quarantined = aside.get(slab, 0)
        counts = np.array((free, cached, pinned, leased - quarantined, quarantined), np.float64)
        shares[slab] = 0.0
        shares[slab, _PAGES] = counts / max(1.0, counts.sum())


def _openers(core: Core, number: int) -> tuple[str, ...]:
    return tuple(name for name, session in sorted(core.owners.sessions.items()) if number in session.pools)
