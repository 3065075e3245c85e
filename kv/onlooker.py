"""The arena as an onlooker sees it: pools, a map, who holds what. Reads the core.

In a large arena it reads only what is counted already: the work is a few steps a slab and a client. Only where pages
are few are they looked at one by one.
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
FEW_PAGES: Final = 4096  # a millisecond
FINE_CELLS: Final = 256  # into so many a small arena is divided
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
        hashed = name_hash(name)
        self._names[hashed] = name
        self._names.move_to_end(hashed)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)

    def view(self) -> PagesView:
        """Everything but what is on disk."""
        core, layout = self._core, self._core.layout
        states, used, cell_bytes = arena_map(core)
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
            tuple(islice(self._holders(), MAX_HOLDERS)), states, used, cell_bytes, core.settling,
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
    """States and fill of the map's cells, and how many bytes a cell is."""
    layout, pools = core.layout, list(core.pools.values())
    slabs, parts, per_cell = layout.slabs, _parts(core), -(-layout.slabs // MAX_CELLS)
    shares: Shares = np.zeros(
        (-(-slabs // per_cell) * per_cell * parts, len(MAP_STATES))
    )  # by part of a slab, by state
    shares[: slabs * parts, _CODE["none"]] = 1.0
    for slab in core.slabs.lost:
        shares[slab * parts : (slab + 1) * parts] = 0.0
        shares[slab * parts : (slab + 1) * parts, _CODE["lost"]] = 1.0
    for pool in pools:
        if parts > 1:
            _enter_pages(pool, shares, parts, layout.slab_bytes // parts)
        else:
            _enter_slabs(pool, shares)
    cells = shares.reshape(-1, per_cell, len(MAP_STATES)).sum(1)
    in_use = cells.copy()
    in_use[:, : _CODE["cached"]] = 0.0
    # What is in use shows: a cell with one page of ten pinned is "pinned", and a tenth full.
    states = np.where(in_use.any(1), in_use.argmax(1), cells.argmax(1)).astype(np.uint8)
    whole = np.maximum(cells.sum(1), 1e-9)  # the last cell may be short
    used = np.ceil(255 * in_use.sum(1) / whole).astype(np.uint8)
    return states.tobytes(), used.tobytes(), layout.slab_bytes * per_cell // parts


def _parts(core: Core) -> int:
    """Into how many cells a slab is divided: a small arena has few, which would make a coarse map."""
    pools, slab_bytes = core.pools.values(), core.layout.slab_bytes
    if sum(pool.total for pool in pools) > FEW_PAGES:
        return 1
    largest = max((pool.grid.stride for pool in pools), default=slab_bytes)
    most = min(FINE_CELLS // core.layout.slabs, slab_bytes // largest)
    return next((parts for parts in range(most, 1, -1) if slab_bytes % parts == 0), 1)


def _enter_slabs(pool: Pool, shares: Shares) -> None:
    rows = np.array(list(pool.by_slab()), np.int64).reshape(-1, 5)  # slab, free, cached, pinned, leased
    slabs, counts = rows[:, 0], np.zeros((len(rows), len(_PAGES)))
    counts[:, :4] = rows[:, 1:]
    if pool.quarantined:  # some only while writers of a dead owner live
        cells = np.fromiter(pool.quarantined, np.int64, len(pool.quarantined))
        aside = np.bincount(cells * pool.grid.stride // pool.grid.slab_bytes, minlength=len(shares))[slabs]
        counts[:, 3] -= aside
        counts[:, 4] = aside
    shares[slabs] = 0.0
    shares[slabs[:, None], _PAGES] = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)


def _enter_pages(pool: Pool, shares: Shares, parts: int, part_bytes: int) -> None:
    """A page counts where it begins; a part in which none begins is like the one before it."""
    counts: Shares = np.zeros_like(shares)
    for state, cells in (
        ("free", pool.free_cells()),
        ("cached", [cell for cell, page in pool.sealed.items() if not page.pins]),
        ("pinned", [cell for cell, page in pool.sealed.items() if page.pins]),
        ("leased", [cell for cell in pool.leased if cell not in pool.quarantined]),
        ("quarantined", list(pool.quarantined)),
    ):
        begin = np.array(cells, np.int64) * pool.grid.stride // part_bytes
        counts[:, _CODE[state]] = np.bincount(begin, minlength=len(counts))
    counts /= np.maximum(counts.sum(1, keepdims=True), 1.0)
    for slab in pool.slabs:
        for part in range(slab * parts, (slab + 1) * parts):
            if counts[part].any():
                shares[part] = counts[part]
            elif part > slab * parts:
                shares[part] = shares[part - 1]
            else:
                shares[part] = 0.0
                shares[part, _CODE["free"]] = 1.0


def _openers(core: Core, number: int) -> tuple[str, ...]:
    return tuple(name for name, session in sorted(core.owners.sessions.items()) if number in session.pools)
