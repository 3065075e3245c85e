"""Messages in, replies out: the page server without sockets, clocks or memory of its own.

The arena's tables are given; on memory of a test as well as on the arena. `settling` is the time after a start in which
schedulers of the last incarnation say what they still hold: until it ends nothing is evicted and no slab changes hands.
It ends when the last of them has told or is dead, or its time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bus.blocks import DIGEST_BYTES
from bus.messages.pages import (
    MAX_PAGES_PER_MESSAGE,
    Attach,
    Attached,
    Clear,
    Denied,
    Done,
    Fenced,
    Found,
    FromKv,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    PoolStats,
    Prefetch,
    Reassert,
    Reasserted,
    Release,
    Seal,
    Sealed,
    Stats,
    StatsQuery,
    ToKv,
)  # fmt: skip
from bus.names import KV
from bus.packed import pack_u32, unpack_u32
from bus.wire import PROTOCOLS
from kv.disk.index import DiskIndex
from kv.fills import Fills
from kv.layout import VERSION, Layout, Tables, name_hash
from kv.owners import Owners, Session, Writer, WriterKey, pin, unpin
from kv.pool import Handle, Owner, Pool
from kv.slabs import BadShape, PageKey, Slabs
from kv.spills import Spills

SEALED_OK: Final = 0
DUPLICATE: Final = 1
STALE: Final = 2

_MAX_EPOCH: Final = 1 << 63
_MAY: Final[dict[str, frozenset[type]]] = {
    "scheduler": frozenset({OpenPool, Lease, Seal, Lookup, Prefetch, Release, Reassert, Clear, StatsQuery}),
    "worker": frozenset({OpenPool, Fenced, StatsQuery}),
    "supervisor": frozenset(),
    "observer": frozenset({StatsQuery}),
}
# The others do nothing the second time, or only ask.
_REMEMBERED: Final = frozenset({Lease, Seal, Lookup, Prefetch, Release})


class Refusal(Exception):
    """A request that is answered with `Denied`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    def reply(self, rid: int) -> Denied:
        """To the client."""
        return Denied(rid, self.reason, self.detail)  # type: ignore[arg-type]


class Counts:
    """What was done since the start, in pages (look-ups in requests)."""

    def __init__(self) -> None:
        self.leases = self.seals = self.lookups = self.hits = self.misses = self.evictions = 0


class Core:
    """The page server's state.

    Args:
        layout, tables: of the arena.
        kv_epoch: this incarnation.
        writers: workers that the last incarnation knew and that still live.
        settling: whether clients of the last incarnation are expected; `settle` ends it.
        holders: schedulers that the last incarnation knew and that still live, with the pools of which they may hold
            pages; None where that is not known, and only time tells.
        somebody: whether there may be writers and holders that nobody knows.
        keeping: whether there is a disk tier.

    Attributes:
        copies, spills, fills: what is on disk, goes there, and comes from there. Who owns the disk asks what to do and
            says what was done.
        owner: as what kv leases pages to itself, to fill them from disk.
        orphans: pages leased by owners of the last incarnation's time that have not come back yet.
        on_clear: called when copies on disk are to go, too.
    """

    def __init__(
        self,
        layout: Layout,
        tables: Tables,
        kv_epoch: int,
        writers: dict[WriterKey, Writer] | None = None,
        *,
        settling: bool = False,
        holders: Mapping[WriterKey, set[int]] | None = None,
        somebody: bool = False,
        keeping: bool = False,
    ) -> None:
        self.layout, self.kv_epoch, self.settling = layout, kv_epoch, settling
        self.slabs = Slabs(layout, tables, keeping=keeping)
        self.owners = Owners(writers or {}, holders or (), somebody=somebody)
        self.owner: Owner = (name_hash(KV), kv_epoch)
        self.copies = DiskIndex()
        self.spills = Spills(self.slabs, self.copies)
        self.fills = Fills(self.slabs, self.copies, self._room)
        self.on_clear: Callable[[], None] = lambda: None
        self.counts = Counts()
        self.orphans: dict[Owner, set[PageKey]] = self.slabs.rebuild()
        self._end_orphans_before(self.owner)  # half filled when we died; our threads have died with us
        self._clear_later: set[int] = set()
        self._untold = (
            None if holders is None or somebody else {key: set(pools) for key, pools in holders.items() if pools}
        )
        if not settling:
            self.settle()
        self._settle_if_all_told()

    @property
    def pools(self) -> dict[int, Pool]:
        """By number."""
        return self.slabs.pools

    # --- sessions --------------------------------------------------------------------------------------------------

    def attach(self, message: Attach, pid: int) -> Session:
        """A client says who it is; an older incarnation of it ends.

        Raises:
            Refusal: a newer incarnation is attached, or the epoch is no epoch.
        """
        if not 0 <= message.epoch < _MAX_EPOCH:
            raise Refusal("malformed", f"{message.epoch} is not an epoch")
        session = Session(message.name, message.epoch, message.role, message.owner, pid)
        previous = self.owners.sessions.get(message.name)
        if previous is not None:
            if previous.epoch > message.epoch:
                raise Refusal("stale", f"epoch {previous.epoch} of {message.name} is attached")
            if previous.epoch < message.epoch:
                self.end(previous)
            else:  # it reconnected before its hang-up was seen
                self.fills.end(previous)
                session.pins, session.leases = previous.pins, previous.leases
                session.pools, session.replies = previous.pools, previous.replies
        self.owners.sessions[message.name] = session
        if message.role == "worker":
            self.owners.writer_came(session.writer, name_hash(message.owner))
        if message.role == "scheduler":
            self.owners.living.add(session.owner)
            self._end_orphans_before(session.owner)
            for older in self.owners.older(session.owner):
                self.holder_died(older)
        return session

    def end(self, session: Session) -> None:
        """A client's connection is gone: its pins fall, its leases wait for their writers. A worker goes on being a
        writer: what ends that is `writer_died`."""
        if self.owners.sessions.get(session.name) is not session:
            return
        del self.owners.sessions[session.name]
        self.fills.end(session)
        for (number, cell), count in session.pins.items():
            for _ in range(count):
                self.pools[number].unpin(cell)
        self._set_aside(session.owner, session.leases)

    def writer_died(self, key: WriterKey) -> None:
        """The process of a worker is proven dead."""
        self._free(self.owners.writer_died(key))

    def holder_died(self, key: WriterKey) -> None:
        """The process of a scheduler is proven dead: it gives nobody its pages any more, and will not say anything."""
        self._free(self.owners.owner_died(key))
        if self._untold is not None:
            self._untold.pop(key, None)
            self._settle_if_all_told()

    def _told(self, key: WriterKey, number: int) -> None:
        if self._untold is not None and key in self._untold:
            self._untold[key].discard(number)
            if not self._untold[key]:
                del self._untold[key]
            self._settle_if_all_told()

    def _settle_if_all_told(self) -> None:
        if self.settling and self._untold is not None and not self._untold:
            self.settle()

    def settle(self) -> None:
        """Whoever has not said what it holds by now does not hold it."""
        self.settling = False
        self._untold = None
        for owner, pages in tuple(self.orphans.items()):
            del self.orphans[owner]
            self._set_aside(owner, pages)
        for number in self._clear_later:
            self._evict_all(number)
        self._clear_later.clear()

    # --- requests --------------------------------------------------------------------------------------------------

    def handle(self, session: Session, message: ToKv) -> FromKv | None:
        """Answer a request of a client that has attached. The same request again gets the same answer. None where the
        answer comes later, from `answers`."""
        if (known := session.replied(message)) is not None:
            return known
        try:
            if self.owners.sessions.get(session.name) is not session:
                raise Refusal("stale", f"a newer connection of {session.name} is attached")
            if type(message) not in _MAY[session.role]:
                raise Refusal("forbidden", f"{type(message).__name__} is not for a {session.role}")
            reply = self._handlers[type(message)](self, session, message)
        except Refusal as refusal:
            return refusal.reply(message.rid)
        if type(message) in _REMEMBERED and reply is not None:
            session.remember(message, reply)
        return reply

    def answers(self) -> list[tuple[Session, FromKv]]:
        """Answers to earlier requests, to be sent now."""
        answers, self.fills.answers = self.fills.answers, []
        for session, question, found in answers:
            session.remember(question, found)
        return [(session, found) for session, _, found in answers]

    def attached(self, rid: int, protocol: int = PROTOCOLS.newest) -> Attached:
        """The reply to `Attach`. `protocol` was agreed on."""
        layout = self.layout
        return Attached(
            rid, self.kv_epoch, layout.arena_bytes, layout.header_offset, layout.data_offset, protocol, VERSION
        )

    def stats(self, rid: int = 0) -> Stats:
        """Pages by state."""
        pools = []
        for pool in self.pools.values():
            quarantined, filling = len(pool.quarantined), sum(1 for n, _ in self.fills.running if n == pool.number)
            pools.append(
                PoolStats(
                    pool.number, pool.root, pool.total, pool.free_count, len(pool.leased) - quarantined - filling,
                    pool.pinned, len(pool.sealed) - pool.pinned, quarantined, filling,
                )
            )  # fmt: skip
        counts, lost = self.counts, sum(pool.lost for pool in self.pools.values())
        return Stats(
            rid, self.kv_epoch, self.layout.arena_bytes, self.layout.slabs, self.slabs.free, tuple(pools),
            counts.leases, counts.seals, counts.lookups, counts.hits, counts.misses, counts.evictions,
            self.copies.pages, self.spills.written, self.fills.read, lost,
        )  # fmt: skip

    @property
    def load(self) -> float:
        """Share of the arena's bytes that somebody holds, 0 to 1."""
        held = sum((len(pool.leased) + pool.pinned) * pool.grid.stride for pool in self.pools.values())
        return held / self.layout.data_bytes

    def _open_pool(self, session: Session, message: OpenPool) -> FromKv:
        try:
            pool = self.slabs.open(message.root, message.shape, self._nobody_uses)
        except BadShape as bad:
            raise Refusal("shape", str(bad)) from None
        session.pools.add(pool.number)
        grid, capacity = pool.grid, self.slabs.capacity(pool)
        return PoolOpened(
            message.rid, pool.number, grid.stride, grid.cells, capacity, grid.slab_bytes, grid.header_slots
        )

    def _lease(self, session: Session, message: Lease) -> FromKv:
        pool = self._pool(session, message.pool)
        count = min(message.count, MAX_PAGES_PER_MESSAGE)
        gone = self._make_free(pool, count)
        handles = pool.take(count, session.owner)
        session.leases.update((pool.number, cell) for cell, _ in handles)
        self.counts.leases += len(handles)
        return Leased(message.rid, *_packed(handles), b"".join(gone))

    def _seal(self, session: Session, message: Seal) -> FromKv:
        pool = self._pool(session, message.pool)
        handles = _handles(message.pages, message.generations)
        digests, parents = _digests(message.digests), _digests(message.parents)
        if not len(handles) == len(digests) == len(parents):
            raise Refusal("malformed", "a page has one digest and one parent")
        rows = [self._seal_page(session, pool, *row) for row in zip(handles, digests, parents, strict=True)]
        codes, pages, generations = zip(*rows, strict=True) if rows else ((), (), ())
        return Sealed(message.rid, pack_u32(codes), pack_u32(pages), pack_u32(generations))

    def _seal_page(
        self, session: Session, pool: Pool, handle: Handle, digest: bytes, parent: bytes
    ) -> tuple[int, int, int]:
        cell, generation = handle
        key = (pool.number, cell)
        if key not in session.leases or pool.leased.get(cell) != generation or digest == parent:
            return STALE, cell, generation
        if (known := pool.index.get(digest)) is not None:
            pin(session, pool, known)
            return DUPLICATE, known, pool.sealed[known].generation
        pool.seal(cell, digest, parent)
        session.leases.discard(key)
        session.pins[key] += 1
        self.counts.seals += 1
        return SEALED_OK, cell, generation

    def _lookup(self, session: Session, message: Lookup) -> FromKv:
        pool = self._pool(session, message.pool)
        digests = _digests(message.digests)
        cells = pool.find(message.digests)
        for cell in cells:
            pin(session, pool, cell)
        self.counts.lookups += 1
        self.counts.hits += len(cells)
        self.counts.misses += len(digests) - len(cells)
        handles = _packed([(cell, pool.sealed[cell].generation) for cell in cells])
        return Found(message.rid, *handles, *self.fills.ahead(pool, digests[len(cells) :]))

    def _prefetch(self, session: Session, message: Prefetch) -> FromKv | None:
        return self.fills.ask(session, message, self._pool(session, message.pool), _digests(message.digests))

    def _release(self, session: Session, message: Release) -> FromKv:
        pool = self._pool(session, message.pool)
        # Children before parents, so that of two pages released together the later block is evicted first.
        for cell, generation in reversed(_handles(message.pages, message.generations)):
            key = (pool.number, cell)
            if key in session.leases and pool.leased.get(cell) == generation:
                session.leases.discard(key)
                pool.give_back(cell)
            elif session.pins[key] and pool.sealed[cell].generation == generation:
                unpin(session, pool, cell)
        return Done(message.rid)

    def _reassert(self, session: Session, message: Reassert) -> FromKv:
        pool = self._pool(session, message.pool)
        lost = []
        for cell, generation in _handles(message.pins, message.pin_generations):
            page = pool.sealed.get(cell)
            if page is None or page.generation != generation:
                lost.append(cell)
            elif not session.pins[pool.number, cell]:
                pin(session, pool, cell)
        for cell, generation in _handles(message.leases, message.lease_generations):
            key = (pool.number, cell)
            if pool.leased.get(cell) != generation or not (key in session.leases or self._take_back(session, key)):
                lost.append(cell)
        if message.final:
            # Leased to this owner, which lives and does not know: the answer was lost with the last incarnation of
            # kv, or the page was given back to it. Nobody writes there.
            orphans = self.orphans.get(session.owner, set())
            unknown = {key for key in orphans if key[0] == pool.number}
            orphans -= unknown
            self._free(unknown | self.owners.not_claimed(session.owner, pool.number))
            self._told(session.owner, pool.number)
        return Reasserted(message.rid, pack_u32(lost))

    def _take_back(self, session: Session, key: PageKey) -> bool:
        orphans = self.orphans.get(session.owner, set())
        if key in orphans:
            orphans.discard(key)
        elif not self.owners.take_back(session.owner, key):
            return False
        self.pools[key[0]].quarantined.discard(key[1])
        session.leases.add(key)
        return True

    def _fenced(self, session: Session, message: Fenced) -> FromKv:
        if session.owner_name != message.owner:
            raise Refusal("forbidden", f"{session.name} writes for {session.owner_name!r}")
        if not 0 <= message.epoch < _MAX_EPOCH:
            raise Refusal("malformed", f"{message.epoch} is not an epoch")
        self._free(self.owners.writer_fenced(session.writer, message.epoch))
        return Done(message.rid)

    def _clear(self, session: Session, message: Clear) -> FromKv:
        numbers = {self._pool(session, message.pool).number} if message.pool else set(self.pools)
        if self.settling:  # what is not pinned yet may be pinned by one who has not come back yet
            self._clear_later |= numbers
        else:
            for number in numbers:
                self._evict_all(number)
        self.spills.forget_all()
        self.on_clear()
        return Done(message.rid)

    def _stats_query(self, session: Session, message: StatsQuery) -> FromKv:
        del session
        return self.stats(message.rid)

    _handlers: Final[dict[type, Callable[..., FromKv | None]]] = {
        OpenPool: _open_pool, Lease: _lease, Seal: _seal, Lookup: _lookup, Prefetch: _prefetch, Release: _release,
        Reassert: _reassert, Fenced: _fenced, Clear: _clear, StatsQuery: _stats_query,
    }  # fmt: skip

    # --- pages -----------------------------------------------------------------------------------------------------

    def _pool(self, session: Session, number: int) -> Pool:
        if number not in session.pools:
            raise Refusal("no_pool", f"{session.name} has not opened pool {number}")
        return self.pools[number]

    def _nobody_uses(self, pool: Pool) -> bool:
        return not self.settling and all(pool.number not in s.pools for s in self.owners.sessions.values())

    def _make_free(self, pool: Pool, count: int) -> list[bytes]:
        """Have `count` pages free if that can be. Returns the digests that the pool lost for it."""
        self.slabs.grow(pool, count)
        if pool.free_count >= count or self.settling:
            return []
        gone = pool.evict(count - pool.free_count)
        self.counts.evictions += len(gone) + self.slabs.reclaim(pool, count)
        return gone

    def _room(self, pool: Pool) -> Handle | None:
        self._make_free(pool, 1)
        return next(iter(pool.take(1, self.owner)), None)

    def _free(self, pages: set[PageKey]) -> None:
        for number, cell in pages:
            self.pools[number].give_back(cell)

    def _set_aside(self, owner: Owner, pages: set[PageKey]) -> None:
        free = self.owners.quarantine(owner, pages)
        for number, cell in pages - free:
            self.pools[number].quarantined.add(cell)
        self._free(free)

    def _end_orphans_before(self, owner: Owner) -> None:
        for older in [o for o in self.orphans if o[0] == owner[0] and o[1] < owner[1]]:
            self._set_aside(older, self.orphans.pop(older))

    def _evict_all(self, number: int) -> None:
        if (pool := self.pools.get(number)) is not None:
            self.counts.evictions += len(pool.evict(len(pool.sealed)))


def _handles(pages: bytes, generations: bytes) -> list[Handle]:
    if len(pages) != len(generations) or len(pages) % 4:
        raise Refusal("malformed", "pages and generations are packed u32, as many of the one as of the other")
    if len(pages) > 4 * MAX_PAGES_PER_MESSAGE:
        raise Refusal("too_large", f"at most {MAX_PAGES_PER_MESSAGE} pages a message")
    return list(zip(unpack_u32(pages).tolist(), unpack_u32(generations).tolist(), strict=True))


def _packed(handles: list[Handle]) -> tuple[bytes, bytes]:
    return pack_u32([cell for cell, _ in handles]), pack_u32([generation for _, generation in handles])


def _digests(packed: bytes) -> list[bytes]:
    if len(packed) % DIGEST_BYTES:
        raise Refusal("malformed", f"digests are {DIGEST_BYTES} bytes each")
    if len(packed) > DIGEST_BYTES * MAX_PAGES_PER_MESSAGE:
        raise Refusal("too_large", f"at most {MAX_PAGES_PER_MESSAGE} digests a message")
    return [packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)]
