"""Which pool has which slab: the pool table and the slab table of the arena. Pure.

The tables are read again after a kill, and not believed blindly: an entry of the pool table has a check sum, and where
the slab table and the headers of a slab differ, the headers, which have one too, are right. A slab that nobody can
explain is *lost*: out of use while this arena lives, for somebody may still write into it.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from bus.messages.pages import MAX_PAGES_PER_MESSAGE
from bus.messages.steps import KvShape
from kv.headers import Headers, Scan
from kv.layout import FREE, LOST, MAX_POOLS, NO_POOL, POOL, Layout, Tables, grid_for
from kv.pool import Owner, Pool

log = logging.getLogger(__name__)

PageKey = tuple[int, int]  # (pool number, cell)

_DTYPES: Final = frozenset({"float32", "bfloat16", "float16", "int8"})
_ROOT_BYTES: Final = 16


class BadShape(ValueError):
    """No pool can have pages of that shape, or no further pool fits."""


class Slabs:
    """All pools of an arena, and the slabs they share.

    Args:
        keeping: see `Pool`.

    Attributes:
        pools: by number.
    """

    def __init__(self, layout: Layout, tables: Tables, *, keeping: bool = False) -> None:
        self.layout, self._tables, self._keeping = layout, tables, keeping
        self._headers = Headers(tables.headers)
        self.pools: dict[int, Pool] = {}
        self._unused = np.flatnonzero(tables.slab_pool == NO_POOL).tolist()[::-1]

    @property
    def free(self) -> int:
        """Slabs of no pool."""
        return len(self._unused)

    @property
    def lost(self) -> list[int]:
        """Slabs that are out of use, because nobody can say whose they are."""
        return np.flatnonzero(self._tables.slab_pool == LOST).tolist()

    def capacity(self, pool: Pool) -> int:
        """Pages that the pool would have were it alone."""
        return sum(len(pool.grid.cells_of(slab)) for slab in range(self.layout.slabs))

    # --- pools -----------------------------------------------------------------------------------------------------

    def open(self, root: bytes, shape: KvShape, retirable: Callable[[Pool], bool]) -> Pool:
        """The pool of that shape, made where there is none.

        Args:
            retirable: whether an old pool may be forgotten, where the table is full.

        Raises:
            BadShape: see there.
        """
        self._check(root, shape)
        wanted = _entry(root, shape)
        for number, pool in self.pools.items():
            if self._tables.pools[number - 1].tobytes() == wanted.tobytes():
                return pool
        number = next((n for n in range(1, MAX_POOLS + 1) if n not in self.pools), 0) or self._retire(retirable)
        self._tables.pools[number - 1] = wanted
        return self._add(number, root, shape)

    def _add(self, number: int, root: bytes, shape: KvShape) -> Pool:
        grid = grid_for(self.layout, shape.page_bytes)
        pool = Pool(number, root, identity_of(root, shape), grid, self._headers, keeping=self._keeping)
        self.pools[number] = pool
        return pool

    def _check(self, root: bytes, shape: KvShape) -> None:
        sizes = (shape.layers, shape.kv_heads, shape.page_tokens, shape.head_dim)
        if len(root) != _ROOT_BYTES or shape.dtype not in _DTYPES or min(sizes) < 1:
            raise BadShape(f"not a shape: {shape}")
        if shape.page_bytes > self.layout.slab_bytes:
            raise BadShape(f"pages of {shape.page_bytes} bytes do not fit slabs of {self.layout.slab_bytes}")
        grid = grid_for(self.layout, shape.page_bytes)
        if not any(grid.cells_of(slab) for slab in range(min(self.layout.slabs, 8))):
            raise BadShape(f"pages of {shape.page_bytes} bytes lie across slabs of {self.layout.slab_bytes}")

    def _retire(self, retirable: Callable[[Pool], bool]) -> int:
        for number, pool in self.pools.items():
            if not pool.leased and not pool.pinned and retirable(pool):
                self._unused += [self._take_from(pool, slab) for slab in tuple(pool.slabs)]
                del self.pools[number]
                return number
        raise BadShape(f"{MAX_POOLS} pools are in use")

    # --- slabs -----------------------------------------------------------------------------------------------------

    def grow(self, pool: Pool, count: int) -> None:
        """Give the pool slabs until `count` pages are free: unused ones, then those that others have left empty."""
        free = pool.free_count
        while free < count:
            slab = self._unused_for(pool)
            if slab is None:
                cost, number, empty = self._cheapest(pool) or (1, 0, 0)
                if cost:
                    return
                slab = self._take_from(self.pools[number], empty)
            free += self._give(slab, pool)

    def reclaim(self, pool: Pool, count: int) -> int:
        """Give the pool slabs with others' cached pages until `count` are free. Returns how many pages that cost;
        bounded for one call, so that others are answered in time."""
        free, evicted = pool.free_count, 0
        while free < count and evicted < MAX_PAGES_PER_MESSAGE and (offer := self._cheapest(pool)) is not None:
            cost, number, slab = offer
            free += self._give(self._take_from(self.pools[number], slab), pool)
            evicted += cost
        return evicted

    def _unused_for(self, pool: Pool) -> int | None:
        for at in range(len(self._unused) - 1, -1, -1):
            if pool.grid.cells_of(self._unused[at]):  # where pages are large, a slab may hold no whole cell
                return self._unused.pop(at)
        return None

    def _cheapest(self, pool: Pool) -> tuple[int, int, int] | None:
        """The slab of another pool that costs fewest cached pages: (pages, pool, slab)."""
        offers = [
            (cheapest[0], other.number, cheapest[1])
            for other in self.pools.values()
            if other is not pool
            and (cheapest := other.cheapest_slab(lambda slab: bool(pool.grid.cells_of(slab)))) is not None
        ]
        return min(offers) if offers else None

    def _take_from(self, pool: Pool, slab: int) -> int:
        pool.remove_slab(slab)
        self._tables.slab_pool[slab] = NO_POOL
        return slab

    def _give(self, slab: int, pool: Pool) -> int:
        self._tables.slab_pool[slab] = pool.number
        pool.add_slab(slab)
        return len(pool.grid.cells_of(slab))

    # --- after a kill ----------------------------------------------------------------------------------------------

    def rebuild(self) -> dict[Owner, set[PageKey]]:
        """Make every pool again from the tables and headers. Returns leased pages by owner."""
        for number, entry in enumerate(self._tables.pools, start=1):
            if not entry["used"]:
                continue
            if _check_sum(entry) != entry["crc"]:
                log.error("entry %d of the pool table is damaged: its slabs are out of use", number)
                continue
            shape = KvShape(
                int(entry["layers"]), int(entry["kv_heads"]), int(entry["page_tokens"]), int(entry["head_dim"]),
                entry["dtype"].tobytes().rstrip(b"\0").decode(errors="replace"),
            )  # fmt: skip
            self._add(number, entry["root"].tobytes(), shape)
        leases: dict[Owner, set[PageKey]] = {}
        self._unused = []
        slots = self.layout.header_slots
        for slab, said in enumerate(self._tables.slab_pool.tolist()):
            scan = self._headers.scan(slab * slots, slots)
            number = self._tables.slab_pool[slab] = self._owner_of(slab, said, scan)
            if number == NO_POOL:
                self._unused.append(slab)
            elif number != LOST:
                for owner, cells in self.pools[number].rebuild(slab, scan).items():
                    leases.setdefault(owner, set()).update((number, cell) for cell in cells)
        self._unused.reverse()
        for pool in self.pools.values():
            pool.finish_rebuild()
        return leases

    def _owner_of(self, slab: int, said: int, scan: Scan) -> int:
        """Pool number, NO_POOL or LOST. `said` is the slab table's word, which headers in use overrule."""
        seen = set(scan.pool[scan.valid & (scan.state != FREE)].tolist())
        number = seen.pop() if len(seen) == 1 else said
        if seen or (number != NO_POOL and number not in self.pools) or (number == NO_POOL and scan.suspect.any()):
            log.error("slab %d is out of use: the slab table says pool %d, which its headers deny", slab, said)
            return LOST
        return number


def identity_of(root: bytes, shape: KvShape) -> bytes:
    """What tells pages on disk apart that must not be taken for one another, by whatever field a shape has."""
    return blake2b(root + msgspec.msgpack.encode(shape), digest_size=_ROOT_BYTES, person=b"headrace-disk").digest()


def _entry(root: bytes, shape: KvShape) -> np.void:
    entry = np.zeros(1, dtype=POOL)
    entry["used"], entry["layers"], entry["kv_heads"] = 1, shape.layers, shape.kv_heads
    entry["page_tokens"], entry["head_dim"] = shape.page_tokens, shape.head_dim
    entry["dtype"], entry["root"] = np.void(shape.dtype.encode().ljust(12, b"\0")), np.void(root)
    entry["stride"] = shape.page_bytes
    entry["crc"] = _check_sum(entry[0])
    identity: np.void = entry[0]
    return identity


def _check_sum(entry: np.void) -> int:
    copy = np.array([entry], dtype=POOL)
    copy["crc"] = 0
    return zlib.crc32(copy.tobytes())
