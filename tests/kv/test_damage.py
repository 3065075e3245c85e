"""kv is killed at any store it makes, and bits flip in its tables: never a crash, never wrong bytes.

The arena's memory is plain memory here; a kill is an exception at the n-th header write, with that header half written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pageclients import LARGE, ROOT, SMALL, Clients, Pages, digests, packed

from bus.messages.pages import OpenPool, PoolOpened, Reassert, Reasserted
from bus.packed import unpack_u32
from kv.client import held
from kv.core import Core
from kv.layout import HEADER, WRITER, tables
from kv.owners import SOMEBODY, Session
from kv.witness import Witness


class Killed(Exception):
    """kv dies here."""


@contextlib.contextmanager
def kill_at(clients: Clients, write: int, part: int) -> Iterator[None]:
    """Die in the `write`-th header write, when `part` of its three stores are done."""
    headers = clients.core.slabs._headers
    original, left = headers.write, write

    def dying(at: int, *arguments: object, **named: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            original(at, *arguments, **named)  # type: ignore[arg-type]
            return
        base = at * HEADER.itemsize
        memory = headers._memory[base : base + HEADER.itemsize]
        before = bytes(memory)
        original(at, *arguments, **named)  # type: ignore[arg-type]
        after = bytes(memory)
        memory[:] = before
        for begin, end in ((64, 96), (0, 24))[:part]:
            memory[begin:end] = after[begin:end]
        raise Killed

    headers.write = dying  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        yield
    headers.write = original  # type: ignore[method-assign]


class Work:
    """Every kind of store: leases, seals, evictions, releases, slabs that change hands."""

    def __init__(self) -> None:
        self.clients = Clients(slabs=2)
        self.chain = digests(20)
        self.content: dict[int, bytes] = {}  # by page of the small pool: what was sealed there last
        self.leased: Pages = []

    def start(self) -> None:
        self.scheduler = self.clients.scheduler()
        self.worker = self.clients.worker()
        self.pool = self.clients.open(self.scheduler)

    def run(self) -> None:
        clients = self.clients
        for at in range(0, 20, 5):
            pages = clients.lease(self.scheduler, self.pool, 5)
            self.leased += pages
            part = self.chain[at : at + 5]
            for (page, _), digest in zip(pages, part, strict=True):
                self.content[page] = digest
            clients.seal(self.scheduler, self.pool, pages, part, self.chain[at - 1] if at else ROOT)
            del self.leased[-5:]
            clients.release(self.scheduler, self.pool, pages)
        self.leased += clients.lease(self.scheduler, self.pool, 14)  # evicts two
        clients.release(self.scheduler, self.pool, [self.leased.pop()])
        other = clients.scheduler("scheduler@b")
        clients.lease(other, clients.open(other, LARGE), 1)

    def nothing_is_wrong(self) -> None:
        """What is found is what was written, and when everybody is gone, everything is free or cached."""
        clients = self.clients
        reader = clients.scheduler("scheduler@r")
        pool = clients.open(reader)
        for length in range(1, len(self.chain) + 1):
            found = clients.find(reader, pool, self.chain[:length])
            assert [self.content[page] for page, _ in found] == self.chain[: len(found)]
        clients.core.settle()
        clients.everybody_dies()
        assert held(clients.core.stats()) == 0


def tell_again(clients: Clients, pool: PoolOpened, leased: Pages) -> tuple[Session, set[int]]:
    scheduler = clients.scheduler()
    assert clients.ask(scheduler, OpenPool(clients.next(), ROOT, SMALL), PoolOpened).pool == pool.pool
    message = Reassert(clients.next(), pool.pool, b"", b"", *packed(leased))
    return scheduler, set(unpack_u32(clients.ask(scheduler, message, Reasserted).lost).tolist())


@pytest.mark.parametrize("part", range(3))
def test_killed_at_any_store(part: int) -> None:
    stores = 0
    while True:
        work = Work()
        work.start()
        finished = False
        with kill_at(work.clients, stores, part):
            work.run()
            finished = True
        work.clients.killed_and_made_again()
        before = work.clients.core.stats()
        work.clients.killed_and_made_again()
        assert work.clients.core.stats().pools == before.pools  # made again twice is as made again once
        _, lost = tell_again(work.clients, work.pool, work.leased)
        # What was being sealed or given back when kv died may be sealed or free: the owner hears that it is not its
        # to write any more. Nothing else is lost.
        assert len(lost) <= 5
        work.nothing_is_wrong()
        if finished:
            break
        stores += 1
    assert stores > 60


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 7)), min_size=1, max_size=8), st.data())
def test_bits_flip(flips: list[tuple[int, int]], data: st.DataObject) -> None:
    """In the table of writers, the slab table, the pool table and the header table; a worker of the old owner lives
    and may still write."""
    work = Work()
    work.start()
    work.run()
    clients, layout = work.clients, work.clients.layout
    witness = Witness(tables(clients.memory, layout).writers)
    assert witness.note(work.worker.writer, clients.core.owners.writers[work.worker.writer], os.getpid())
    assert witness.note_holder(work.scheduler.owner, os.getpid())
    witness.note_pool(work.scheduler.owner, work.pool.pool)
    mine = clients.core.pools[work.pool.pool]
    written = {(page * mine.grid.stride, (page + 1) * mine.grid.stride) for page, _ in work.leased}
    regions = [
        range(layout.writers_offset, layout.writers_offset + 3 * WRITER.itemsize),
        range(layout.slab_table_offset, layout.slab_table_offset + 4 * layout.slabs),
        range(layout.pool_table_offset, layout.pool_table_offset + 3 * 72),
        range(layout.header_offset, layout.header_offset + layout.slabs * layout.header_slots * HEADER.itemsize),
    ]
    for place, bit in flips:
        region = data.draw(st.sampled_from(regions))
        clients.memory[region[place % len(region)]] ^= 1 << bit
    clients.core = Core(
        layout, tables(clients.memory, layout), 2, {known.key: known.writer for known in witness.living()},
        settling=True, holders={known.key: known.pools for known in witness.holders()}, somebody=witness.damaged,
    )  # fmt: skip
    clients.core.settle()
    # The old owner does not come back, its worker lives: nobody else gets a byte that it may still write.
    other = clients.scheduler("scheduler@b")
    for shape in (SMALL, LARGE):
        pool = clients.open(other, shape)
        for page, _ in clients.lease(other, pool, 100):
            begin, end = page * pool.stride, (page + 1) * pool.stride
            assert not any(begin < their_end and their_begin < end for their_begin, their_end in written)
            if shape is SMALL:
                work.content[page] = b"overwritten"
            for cell in range(begin // mine.grid.stride, -(-end // mine.grid.stride)):
                work.content[cell] = b"overwritten"
    if witness.damaged:
        clients.core.writer_died(SOMEBODY)  # which nobody could ever prove
    work.nothing_is_wrong()
