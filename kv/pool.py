"""Pages of one shape: their states, the index by digest, and which one is evicted next. Pure.

Headers are written through at every change of state, so that the index can be made again from them. What is not in a
header is derived: pins and leases are told again by their owners, order of use starts over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np

from kv.headers import Headers, Scan
from kv.layout import FREE, LEASED, SEALED, Grid
from kv.lru import SegmentedLru

Handle = tuple[int, int]  # (cell, generation)
Owner = tuple[int, int]  # (hash of the scheduler's name, its epoch)

# Of pages whose header is suspect: whoever owned them, somebody may still write them.
UNKNOWN_OWNER: Owner = (0, 0)


class Sealed:
    """A sealed page.

    Attributes:
        pins: counted over all sessions.
        kept: it is on disk as well, or on its way there.
    """

    __slots__ = ("digest", "generation", "kept", "parent", "pins", "used_again")

    def __init__(self, digest: bytes, parent: bytes, generation: int) -> None:
        self.digest, self.parent, self.generation = digest, parent, generation
        self.pins = 0
        self.used_again = self.kept = False


class Pool:
    """The pages of one KV shape of one model.

    Args:
        number: of the pool, from 1; what the slab table and headers say.
        identity: of model and shape; what copies on disk are named by.
        grid: where its cells lie.
        headers: the arena's header table.
        keeping: whether pages should be on disk before they are evicted.

    Attributes:
        leased: generations of leased cells, those in quarantine included.
        sealed: pinned and cached cells.
        index: cells by digest, all sealed ones.
        pinned: how many sealed pages somebody holds.
        unkept: pages that became cached and are nowhere else, longest first.
        writing: cells that are being written to disk: evicted last, but evicted.
        lost: how many pages were evicted that were nowhere else.
    """

    def __init__(
        self, number: int, root: bytes, identity: bytes, grid: Grid, headers: Headers, *, keeping: bool
    ) -> None:
        self.number, self.root, self.identity, self.grid = number, root, identity, grid
        self._headers, self._keeping = headers, keeping
        self.unkept: OrderedDict[int, None] = OrderedDict()
        self.writing: set[int] = set()
        self.lost = 0
        self.leased: dict[int, int] = {}
        self.quarantined: set[int] = set()
        self.sealed: dict[int, Sealed] = {}
        self.index: dict[bytes, int] = {}
        self.pinned = 0
        self._free: dict[int, list[int]] = {}  # by slab; every slab of the pool has an entry
        self._held: dict[int, int] = {}  # leased and pinned pages, by slab
        self._cached: dict[int, int] = {}  # by slab
        self._leased: dict[int, int] = {}  # by slab
        self._children: dict[bytes, int] = {}  # how many sealed pages name this digest as parent, resident or not
        self._order = SegmentedLru()

    # --- counting --------------------------------------------------------------------------------------------------

    @property
    def slabs(self) -> Iterator[int]:
        """Slabs that the pool owns."""
        return iter(self._free)

    @property
    def total(self) -> int:
        """Usable cells of the pool's slabs."""
        return self.free_count + len(self.leased) + len(self.sealed)

    @property
    def free_count(self) -> int:
        """Cells that can be leased at once."""
        return sum(map(len, self._free.values()))

    def by_slab(self) -> Iterator[tuple[int, int, int, int, int]]:
        """(slab, free, cached, pinned, leased): pages of every slab of the pool."""
        for slab, free in self._free.items():
            leased = self._leased[slab]
            yield slab, len(free), self._cached[slab], self._held[slab] - leased, leased

    def free_cells(self) -> list[int]:
        """All of them, for tests and tools."""
        return [cell for cells in self._free.values() for cell in cells]

    def may_go(self, cell: int) -> bool:
        """Whether a sealed page is up for eviction: nobody holds it, and no resident block continues it."""
        return cell in self._order

    # --- slabs -----------------------------------------------------------------------------------------------------

    def add_slab(self, slab: int) -> None:
        """A slab whose cells are free from now on."""
        self._free[slab] = list(reversed(self.grid.cells_of(slab)))
        self._held[slab] = self._cached[slab] = self._leased[slab] = 0

    def cheapest_slab(self, usable: Callable[[int], bool]) -> tuple[int, int] | None:
        """A usable slab in which nothing is leased or pinned, with fewest cached pages: (cached pages, slab)."""
        idle = [(self._cached[slab], slab) for slab, held in self._held.items() if held == 0 and usable(slab)]
        return min(idle) if idle else None

    def remove_slab(self, slab: int) -> int:
        """Give up a slab in which nothing is held; its cached pages are forgotten. Returns how many those were.

        This is the one place where a block may go before those that continue it. They are found again as soon as
        it is sealed again, which for a prefix that many share is soon; until then they age like others.
        """
        gone = [cell for cell in self.grid.cells_of(slab) if cell in self.sealed]
        for cell in gone:
            self._drop(cell)
        del self._free[slab], self._held[slab], self._cached[slab], self._leased[slab]
        return len(gone)

    # --- free and leased -------------------------------------------------------------------------------------------

    def take(self, count: int, owner: Owner) -> list[Handle]:
        """Lease up to `count` free pages, from the fullest slabs first, so that others run empty."""
        handles: list[Handle] = []
        for slab in sorted(self._free, key=lambda slab: len(self._free[slab])):
            free = self._free[slab]
            taken = min(count - len(handles), len(free))
            for _ in range(taken):
                handles.append(self._lease(free.pop(), owner))
            self._held[slab] += taken
            self._leased[slab] += taken
            if len(handles) == count:
                break
        return handles

    def give_back(self, cell: int) -> None:
        """A leased page is free, its content forgotten."""
        generation = self.leased.pop(cell)
        self.quarantined.discard(cell)
        self._headers.write(self.grid.header_of(cell), FREE, self.number, generation)
        slab = self.grid.slab_of(cell)
        self._held[slab] -= 1
        self._leased[slab] -= 1
        self._free[slab].append(cell)

    def _lease(self, cell: int, owner: Owner) -> Handle:
        at = self.grid.header_of(cell)
        generation = (self._headers.generation(at) + 1) & 0xFFFFFFFF or 1
        self._headers.write(at, LEASED, self.number, generation, *owner)
        self.leased[cell] = generation
        return cell, generation

    # --- sealed ----------------------------------------------------------------------------------------------------

    def seal(self, cell: int, digest: bytes, parent: bytes) -> None:
        """A leased page becomes an indexed one, with one pin. The digest must not be indexed."""
        generation = self.leased.pop(cell)
        self._leased[self.grid.slab_of(cell)] -= 1
        self._headers.write(self.grid.header_of(cell), SEALED, self.number, generation, identity=digest + parent)
        page = Sealed(digest, parent, generation)
        page.pins = 1
        self.pinned += 1
        self._enter(cell, page)
        if (above := self.index.get(parent)) is not None:
            self._order.forget(above)

    def pin(self, cell: int) -> None:
        """Hold a sealed page; it is not evicted before as many unpins."""
        page = self.sealed[cell]
        page.used_again = True
        page.pins += 1
        if page.pins == 1:
            self._order.forget(cell)
            self._count_pinned(cell, 1)

    def unpin(self, cell: int) -> None:
        """Undo one pin."""
        page = self.sealed[cell]
        page.pins -= 1
        if page.pins == 0:
            self._count_pinned(cell, -1)
            self._ask_to_keep(cell)
            if page.digest not in self._children:
                self._order.offer(cell, again=page.used_again)

    def find(self, digests: bytes) -> list[int]:
        """Cells of the longest indexed prefix of a chain."""
        cells = []
        for start in range(0, len(digests), 16):
            cell = self.index.get(digests[start : start + 16])
            if cell is None:
                break
            cells.append(cell)
        return cells

    def evict(self, count: int) -> list[bytes]:
        """Free up to `count` cached pages, least recently used leaves first; their digests."""
        gone: list[bytes] = []
        while len(gone) < count and (cell := self._order.oldest(self.writing)) is not None:
            gone.append(self._drop(cell))
        return gone

    # --- copies on disk --------------------------------------------------------------------------------------------

    def next_unkept(self) -> list[int]:
        """What should be on disk next: the page that has been cached longest and is nowhere else, behind those before
        it in its chain that are nowhere else either. A block without those before it would never be found."""
        chain: list[int] = []
        above = next(iter(self.unkept), None)
        # Digests that name each other in a circle come from nobody's tokens; they must not stop us.
        while above is not None and not self.sealed[above].kept and len(chain) < len(self.sealed):
            chain.append(above)
            above = self.index.get(self.sealed[above].parent)
        return chain[::-1]

    def keep(self, cell: int) -> None:
        """A sealed page is on disk, or on its way."""
        self.sealed[cell].kept = True
        self.unkept.pop(cell, None)

    def unkeep(self, digest: bytes, *, again: bool = True) -> None:
        """A block is not on disk any more; where we have it, it should be `again`."""
        if (cell := self.index.get(digest)) is not None:
            self.sealed[cell].kept = False
            if again and not self.sealed[cell].pins:
                self._ask_to_keep(cell)

    def _ask_to_keep(self, cell: int) -> None:
        if self._keeping and not self.sealed[cell].kept:
            self.unkept[cell] = None
            self.unkept.move_to_end(cell)

    # --- rebuilding ------------------------------------------------------------------------------------------------

    def rebuild(self, slab: int, scan: Scan) -> dict[Owner, list[int]]:
        """Take over a slab of the last incarnation as its headers have it; `finish_rebuild` follows the last one.

        Args:
            scan: of all headers of the slab.

        Returns:
            Cells that are leased, by owner; those with a suspect header by `UNKNOWN_OWNER`.
        """
        cells = self.grid.cells_of(slab)
        scan = scan.first(len(cells))  # where pages are large, a slab has more headers than cells
        mine = scan.valid & (scan.pool == self.number)
        leases: dict[Owner, list[int]] = {}
        for at in np.flatnonzero(mine & (scan.state == LEASED) | scan.suspect).tolist():
            owner = (int(scan.owner[at]), int(scan.owner_epoch[at])) if mine[at] else UNKNOWN_OWNER
            leases.setdefault(owner, []).append(cells[at])
            self.leased[cells[at]] = int(scan.generation[at])
        sealed = np.flatnonzero(mine & (scan.state == SEALED))
        identities = scan.identity[sealed].tobytes()
        cached = 0
        for row, (at, generation) in enumerate(zip(sealed.tolist(), scan.generation[sealed].tolist(), strict=True)):
            digest, parent = identities[32 * row : 32 * row + 16], identities[32 * row + 16 : 32 * row + 32]
            if digest not in self.index:
                self._enter(cells[at], Sealed(digest, parent, generation))
                cached += 1
        self._held[slab] = self._leased[slab] = sum(map(len, leases.values()))
        self._cached[slab] = cached
        self._free[slab] = [cell for cell in reversed(cells) if cell not in self.leased and cell not in self.sealed]
        return leases

    def finish_rebuild(self) -> None:
        """Queue for eviction what nobody continues."""
        for cell, page in self.sealed.items():
            self._ask_to_keep(cell)
            if page.digest not in self._children:
                self._order.offer(cell, again=False)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _enter(self, cell: int, page: Sealed) -> None:
        self.sealed[cell] = page
        self.index[page.digest] = cell
        self._children[page.parent] = self._children.get(page.parent, 0) + 1

    def _drop(self, cell: int) -> bytes:
        """A cached page is free."""
        page = self.sealed.pop(cell)
        del self.index[page.digest]
        self._order.forget(cell)
        self.unkept.pop(cell, None)
        self.writing.discard(cell)
        self.lost += not page.kept
        self._headers.write(self.grid.header_of(cell), FREE, self.number, page.generation)
        slab = self.grid.slab_of(cell)
        self._cached[slab] -= 1
        self._free[slab].append(cell)
        self._children[page.parent] -= 1
        if not self._children[page.parent]:
            del self._children[page.parent]
            if (above := self.index.get(page.parent)) is not None and not self.sealed[above].pins:
                self._order.offer_first(above)
        return page.digest

    def _count_pinned(self, cell: int, change: int) -> None:
        slab = self.grid.slab_of(cell)
        self.pinned += change
        self._held[slab] += change
        self._cached[slab] -= change
