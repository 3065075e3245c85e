"""Pages that come back from disk: who asked for which, and what is read next. Pure.

A page is filled under a lease of kv's own, while it is read and not while it waits for that: a disk that hangs holds up
a few dozen pages. Two who ask for one page get one read. Whoever asked gets what is there when all
of it is, or when its time is up; what comes later is cached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bus.messages.pages import Found, Prefetch
from bus.packed import pack_u32
from kv.disk.index import DiskIndex, Place
from kv.disk.record import record_size
from kv.owners import Session, pin, unpin
from kv.pool import Handle, Pool
from kv.slabs import PageKey, Slabs

MAX_PREFETCHES: Final = 64  # of one session; more are answered at once, with what is in memory
_FIRST_BYTES_PER_S: Final = 200e6

Key = tuple[int, bytes]  # (pool number, digest)


class Fill(NamedTuple):
    """A page that is to be read, into a page that nobody else reads or writes until `Fills.done`."""

    pool: int
    identity: bytes
    cell: int
    digest: bytes
    place: Place


class Answer(NamedTuple):
    """What a session is told now, though it asked some time ago."""

    session: Session
    question: Prefetch
    found: Found


@dataclass(eq=False)
class Asked:
    """A question that is open.

    Attributes:
        digests: the chain, as far as it can come to be in memory.
        missing: blocks of it that are not there yet.
        held: cells of those that are, pinned for the session.
    """

    session: Session
    question: Prefetch
    pool: Pool
    digests: list[bytes] = field(default_factory=list)
    missing: set[bytes] = field(default_factory=set)
    held: dict[bytes, int] = field(default_factory=dict)


class Fills:
    """What comes from disk.

    Args:
        copies: what is there.
        room: a page of the pool, leased to kv itself; None where there is none.

    Attributes:
        usable: whether the disk answers; otherwise nothing is there.
        bytes_per_s: how fast, as measured.
        running: cells that are being filled.
        answers: to be sent; who sends them takes them out.
        read: pages that were filled, since the start.
    """

    def __init__(self, slabs: Slabs, copies: DiskIndex, room: Callable[[Pool], Handle | None]) -> None:
        self._slabs, self._copies, self._room = slabs, copies, room
        self._open: dict[tuple[Session, int], Asked] = {}
        self._waiting: dict[Key, list[Asked]] = {}  # for blocks that are queued or being read
        self._queue: deque[tuple[Key, int]] = deque()  # with the bytes of its page
        self._queued_bytes = 0
        self.usable = True
        self.bytes_per_s = _FIRST_BYTES_PER_S
        self.running: set[PageKey] = set()
        self.answers: list[Answer] = []
        self.read = 0

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the disk."""
        return bool(self._queue or self.running)

    def ahead(self, pool: Pool, digests: list[bytes]) -> tuple[int, int]:
        """How many blocks at the beginning of a chain could be had, and in how many microseconds."""
        count = reads = 0
        for digest in digests:
            if digest not in pool.index:
                if not self._obtainable(pool, digest):
                    break
                reads += 1
            count += 1
        if not reads:
            return 0, 0
        return count, int(1e6 * (self._queued_bytes + reads * pool.grid.stride) / self.bytes_per_s)

    def ask(self, session: Session, question: Prefetch, pool: Pool, digests: list[bytes]) -> Found | None:
        """Bring a chain into memory and pin it. None where the answer comes later, in `answers`."""
        if (session, question.rid) in self._open:
            return None
        asked = Asked(session, question, pool)
        mine = sum(1 for open_session, _ in self._open if open_session is session)
        for digest in digests:
            if digest in asked.held or digest in asked.missing:
                break  # no chain is a circle
            if (cell := pool.index.get(digest)) is not None:
                self._hold(asked, digest, cell)
            elif mine < MAX_PREFETCHES and self._obtainable(pool, digest):
                asked.missing.add(digest)
            else:
                break
            asked.digests.append(digest)
        if not asked.missing:
            return self._found(asked)
        self._open[session, question.rid] = asked
        for digest in asked.digests:
            if digest in asked.missing:
                self._want(asked, digest)
        return None

    def expire(self, session: Session, rid: int) -> None:
        """Time is up: the answer is what is there."""
        if (asked := self._open.get((session, rid))) is not None:
            self._answer(asked)

    def end(self, session: Session) -> None:
        """It will not hear the answers."""
        for asked in [asked for asked in self._open.values() if asked.session is session]:
            self._close(asked)
            for cell in asked.held.values():
                unpin(session, asked.pool, cell)

    # --- reading ---------------------------------------------------------------------------------------------------

    def next(self, most_bytes: int, most_pages: int) -> list[Fill]:
        """What to read now: records that lie one behind the other. The caller begins at once."""
        batch: list[Fill] = []
        size = 0
        while self._queue and len(batch) < most_pages:
            key, stride = self._queue[0]
            if batch and (size + stride > most_bytes or not self._follows(batch[-1], key, stride)):
                break
            self._queue.popleft()
            self._queued_bytes -= stride
            if (fill := self._begin(key)) is not None:
                batch.append(fill)
                size += stride
        return batch

    def _follows(self, last: Fill, key: Key, stride: int) -> bool:
        place = self._copies.find(last.identity, key[1])
        return key[0] == last.pool and place == last.place._replace(offset=last.place.offset + record_size(stride))

    def _begin(self, key: Key) -> Fill | None:
        number, digest = key
        if not self._waiting.get(key):
            self._waiting.pop(key, None)  # whoever wanted it has gone, perhaps the pool too
            return None
        pool = self._slabs.pools[number]
        if (cell := pool.index.get(digest)) is not None:
            self._came(key, cell)  # somebody has computed it
        elif (place := self._copies.find(pool.identity, digest)) is None or (handle := self._room(pool)) is None:
            self._never_comes(key)
        else:
            self.running.add((number, handle[0]))
            return Fill(number, pool.identity, handle[0], digest, place)
        return None

    def done(self, fill: Fill, parent: bytes | None) -> None:
        """A read is over; `parent` is that of the block, where the page is good."""
        pool = self._slabs.pools[fill.pool]
        key = (fill.pool, fill.digest)
        self.running.discard((fill.pool, fill.cell))
        known = pool.index.get(fill.digest)
        if parent is None or parent == fill.digest or known is not None:
            pool.give_back(fill.cell)
            if known is not None:
                self._came(key, known)
            else:
                self._never_comes(key)
            return
        self.read += 1
        pool.seal(fill.cell, fill.digest, parent)
        if self._copies.will_stay(fill.identity, fill.digest):
            pool.keep(fill.cell)
        self._came(key, fill.cell)
        pool.unpin(fill.cell)  # our own

    def _came(self, key: Key, cell: int) -> None:
        for asked in self._waiting.pop(key, ()):
            asked.missing.discard(key[1])
            self._hold(asked, key[1], cell)
            if not asked.missing:
                self._answer(asked)

    def _never_comes(self, key: Key) -> None:
        for asked in self._waiting.pop(key, ()):
            asked.digests = asked.digests[: asked.digests.index(key[1])]
            for digest in asked.missing.difference(asked.digests, (key[1],)):
                self._forsake(asked, digest)
            asked.missing.intersection_update(asked.digests)
            if not asked.missing:
                self._answer(asked)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _obtainable(self, pool: Pool, digest: bytes) -> bool:
        return self.usable and ((pool.number, digest) in self._waiting or self._copies.has(pool.identity, digest))

    def _want(self, asked: Asked, digest: bytes) -> None:
        key = (asked.pool.number, digest)
        if key not in self._waiting:
            self._waiting[key] = []
            self._queue.append((key, asked.pool.grid.stride))
            self._queued_bytes += asked.pool.grid.stride
        self._waiting[key].append(asked)

    def _hold(self, asked: Asked, digest: bytes, cell: int) -> None:
        pin(asked.session, asked.pool, cell)
        asked.held[digest] = cell

    def _answer(self, asked: Asked) -> None:
        self._close(asked)
        self.answers.append(Answer(asked.session, asked.question, self._found(asked)))

    def _close(self, asked: Asked) -> None:
        del self._open[asked.session, asked.question.rid]
        for digest in asked.missing:
            self._forsake(asked, digest)

    def _forsake(self, asked: Asked, digest: bytes) -> None:
        """It does not wait for the block any more. A read that nobody waits for is not begun."""
        self._waiting[asked.pool.number, digest].remove(asked)

    def _found(self, asked: Asked) -> Found:
        """What is there of the chain stays pinned; what lies behind a gap does not."""
        cells: list[int] = []
        for digest in asked.digests:
            if digest not in asked.held:
                break
            cells.append(asked.held.pop(digest))
        for cell in asked.held.values():
            unpin(asked.session, asked.pool, cell)
        generations = [asked.pool.sealed[cell].generation for cell in cells]
        return Found(asked.question.rid, pack_u32(cells), pack_u32(generations))
