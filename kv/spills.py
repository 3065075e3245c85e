"""Which pages are written to disk next. Pure.

Pages are written behind: as soon as nobody holds them and the disk has nothing to read, long before their memory is
needed. So eviction stays instant: nobody who wants a page waits for the disk, and a page that memory was needed for
before the disk got to it is lost, and counted. Writing at eviction instead would make a lease wait for the slowest part
of the host exactly when memory is short. A block is written once while its copy stays, so this costs no more writes in
the long run than writing what is evicted, and more of it is there after a reboot.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kv.disk.index import DiskIndex, Place
from kv.pool import Pool
from kv.slabs import Slabs

_LOOKS: Final = 256  # at what is on disk already, for one batch: after a restart that is nearly everything


class Spill(NamedTuple):
    """A sealed page that is to be written. It may be evicted at any time: who writes it looks at its header before and
    after."""

    pool: int
    identity: bytes
    cell: int
    generation: int
    digest: bytes
    parent: bytes


class Spills:
    """What goes to disk.

    Args:
        copies: what is there already.

    Attributes:
        largest_page: bytes; larger ones have no room in a segment.
        written: pages, since the start.
    """

    def __init__(self, slabs: Slabs, copies: DiskIndex) -> None:
        self._slabs, self._copies = slabs, copies
        self._last_pool = 0
        self.largest_page = 0
        self.written = 0

    @property
    def waiting(self) -> int:
        """Pages that became cached, are nowhere else, and could be written."""
        return sum(len(pool.unkept) for pool in self._slabs.pools.values() if pool.grid.stride <= self.largest_page)

    def next(self, most_bytes: int, most_pages: int) -> list[Spill]:
        """The next batch, of one pool; the pools take turns. Empty where nothing is to be written."""
        numbers = sorted(self._slabs.pools)
        for number in [n for n in numbers if n > self._last_pool] + [n for n in numbers if n <= self._last_pool]:
            pool = self._slabs.pools[number]
            if pool.grid.stride <= self.largest_page and (
                batch := self._of(pool, max(1, min(most_pages, most_bytes // pool.grid.stride)))
            ):
                self._last_pool = number
                return batch
        return []

    def _of(self, pool: Pool, most: int) -> list[Spill]:
        for _ in range(_LOOKS):
            chain = pool.next_unkept()
            if not chain:
                return []
            batch = []
            for cell in chain[:most]:
                page = pool.sealed[cell]
                pool.keep(cell)
                if not self._copies.will_stay(pool.identity, page.digest):
                    pool.writing.add(cell)
                    batch.append(
                        Spill(pool.number, pool.identity, cell, page.generation, page.digest, page.parent)
                    )  # fmt: skip
            if batch:
                return batch
        return []

    def done(self, spill: Spill, place: Place | None) -> None:
        """A page was written, or was not: it changed hands meanwhile, or the disk failed."""
        if place is not None:
            self.written += 1
            self._copies.add(spill.identity, spill.digest, place)
        pool = self._slabs.pools.get(spill.pool)
        page = pool.sealed.get(spill.cell) if pool is not None else None
        if pool is None or page is None or (page.digest, page.generation) != (spill.digest, spill.generation):
            return
        pool.writing.discard(spill.cell)
        if place is None:
            pool.unkeep(spill.digest, again=False)

    def forget_all(self) -> None:
        """Nothing is on disk any more."""
        self._copies.clear()
        for pool in self._slabs.pools.values():
            for digest in pool.index:
                pool.unkeep(digest, again=False)

    def removed(self, segment: int) -> None:
        """A segment was given up: what of it is in memory should be written again."""
        for identity, digest in self._copies.drop(segment):
            self._unkeep(identity, digest)

    def lost_copy(self, identity: bytes, digest: bytes, segment: int) -> None:
        """A copy is damaged or gone."""
        if self._copies.forget(identity, digest, segment):
            self._unkeep(identity, digest)

    def _unkeep(self, identity: bytes, digest: bytes) -> None:
        for pool in self._slabs.pools.values():
            if pool.identity == identity:
                pool.unkeep(digest)
