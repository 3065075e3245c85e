"""Who gets which memory: slabs between pools, eviction, what is never taken, and what a request may cost."""

from __future__ import annotations

import msgspec
import pytest
from pageclients import LARGE, ROOT, SMALL, Clients, digests, packed

from bus.messages.pages import (
    MAX_PACKET_BYTES,
    MAX_PAGES_PER_MESSAGE,
    Attach,
    Clear,
    Done,
    Fenced,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    Reassert,
    Reasserted,
    Release,
    Seal,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from kv.client import held
from kv.core import Refusal
from kv.layout import MAX_POOLS


def test_leaves_go_before_what_they_continue_and_the_used_again_go_last() -> None:
    clients = Clients(slabs=1)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    often, once = digests(6, seed=1), digests(6, seed=2)
    clients.cache(scheduler, pool, often, ROOT)
    clients.release(scheduler, pool, clients.find(scheduler, pool, often))
    clients.cache(scheduler, pool, once, ROOT)
    leased = clients.ask(scheduler, Lease(clients.next(), pool.pool, 4 + 4), Leased)
    assert leased.evicted == b"".join(reversed(once[2:]))
    assert len(clients.find(scheduler, pool, often)) == 6
    assert len(clients.find(scheduler, pool, once)) == 2


def test_a_cached_block_stays_while_a_new_one_continues_it() -> None:
    clients = Clients(slabs=1)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    chain = digests(3)
    clients.cache(scheduler, pool, chain[:1], ROOT)
    clients.cache(scheduler, pool, digests(5, seed=1), ROOT)
    pages = clients.lease(scheduler, pool, 2)
    clients.seal(scheduler, pool, pages, chain[1:], chain[0])
    assert len(clients.lease(scheduler, pool, 16)) == 8 + 5
    clients.release(scheduler, pool, pages)
    assert len(clients.find(scheduler, pool, chain)) == 3


def test_a_lease_never_waits_and_never_takes_what_is_held() -> None:
    clients = Clients(slabs=2)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    chain = digests(10)
    clients.cache(scheduler, pool, chain, ROOT)
    assert len(clients.find(scheduler, pool, chain)) == 10
    assert len(clients.lease(scheduler, pool, 1000)) == 22
    assert clients.lease(scheduler, pool, 1) == []


def test_a_starved_pool_takes_slabs_that_are_empty_then_those_that_are_cheapest() -> None:
    clients = Clients(slabs=4)
    small, large = clients.scheduler("scheduler@a"), clients.scheduler("scheduler@b")
    first, second = clients.open(small, SMALL), clients.open(large, LARGE)
    everything = clients.lease(small, first, 64)
    clients.release(small, first, everything)
    clients.cache(small, first, digests(18), ROOT)  # a slab and a bit
    assert clients.core.slabs.free == 0
    assert len(clients.lease(large, second, 4)) == 4
    assert clients.core.counts.evictions == 0
    assert len(clients.lease(large, second, 2)) == 2
    assert clients.core.counts.evictions == 2
    assert len(clients.find(small, first, digests(18))) == 16


def test_blocks_are_found_again_when_a_block_that_went_with_its_slab_is_back() -> None:
    clients = Clients(slabs=2)
    small, large = clients.scheduler("scheduler@a"), clients.scheduler("scheduler@b")
    first, second = clients.open(small, SMALL), clients.open(large, LARGE)
    chain = digests(17)
    pages = clients.lease(small, first, 17)
    slabs = [page * first.stride // first.slab_bytes for page, _ in pages]
    pages.sort(key=lambda page: slabs.count(page[0] * first.stride // first.slab_bytes))  # the lone one first
    assert clients.seal(small, first, pages, chain, ROOT) == [0] * 17
    clients.release(small, first, pages[:1])
    taken = clients.lease(large, second, 1)
    assert len(taken) == 1
    assert clients.find(small, first, chain) == []
    clients.release(large, second, taken)
    clients.cache(small, first, chain[:1], ROOT)
    assert len(clients.find(small, first, chain)) == 17


def test_a_chain_as_long_as_a_long_context_can_be_evicted() -> None:
    clients = Clients(slabs=400)
    a, b = clients.scheduler("scheduler@a"), clients.scheduler("scheduler@b")
    first, second = clients.open(a, SMALL), clients.open(b, LARGE)
    chain = digests(6000)
    for start in range(0, 6000, 2000):
        clients.cache(a, first, chain[start : start + 2000], chain[start - 1] if start else ROOT)
    leased = [len(clients.lease(b, second, 700 - 350 * half)) for half in range(2)]
    assert sum(leased) >= 700  # one request may cost 4,096 evictions, no more
    clients.ask(a, Clear(clients.next()), Done)
    assert all(pool.cached == 0 for pool in clients.core.stats().pools)


def test_nothing_is_evicted_before_settling() -> None:
    clients = Clients(slabs=1)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    chain = digests(16)
    clients.cache(scheduler, pool, chain, ROOT)
    pins = clients.find(scheduler, pool, chain)
    clients.killed_and_made_again()
    other = clients.scheduler("scheduler@b")
    clients.open(other)
    clients.ask(other, Clear(clients.next()), Done)
    assert clients.lease(other, pool, 1) == []
    assert clients.lease(other, clients.open(other, LARGE), 1) == []
    scheduler = clients.scheduler()
    clients.open(scheduler)
    message = Reassert(clients.next(), pool.pool, *packed(pins[:10]), b"", b"")
    assert clients.ask(scheduler, message, Reasserted).lost == b""
    clients.core.settle()
    assert len(clients.find(scheduler, pool, chain)) == 10  # what was to be cleared is cleared now


def test_a_pool_is_forgotten_only_when_nobody_has_it_open() -> None:
    clients = Clients()
    scheduler, other = clients.scheduler("scheduler@a"), clients.scheduler("scheduler@b")
    mine = clients.open(scheduler)
    for number in range(MAX_POOLS - 1):
        clients.open(other, root=number.to_bytes(16, "big"))
    message = OpenPool(clients.next(), b"n" * 16, SMALL)
    assert clients.refused(scheduler, message) == "shape"
    clients.core.end(other)
    assert clients.open(scheduler, root=b"n" * 16).pool != mine.pool
    assert len(clients.lease(scheduler, mine, 3)) == 3


@pytest.mark.parametrize(
    "shape",
    [
        KvShape(1, 1, 16, 1 << 20, "float32"),
        KvShape(-1, -1, 16, 32, "float32"),
        KvShape(0, 1, 16, 32, "float32"),
        KvShape(1, 1, 16, 32, "int4"),
    ],
)
def test_shapes_that_no_page_can_have_are_refused(shape: KvShape) -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    assert clients.refused(scheduler, OpenPool(1, ROOT, shape)) == "shape"
    assert clients.refused(scheduler, OpenPool(2, b"short", SMALL)) == "shape"


def test_pages_that_fit_only_some_slabs_are_given_those() -> None:
    """A page of 40 KiB on slabs of 64 KiB: of each five slabs, some hold no whole cell of the grid."""
    clients = Clients(slabs=5)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler, KvShape(5, 1, 16, 64, "float32"))
    pages = clients.lease(scheduler, pool, 100)
    assert len(pages) == pool.capacity > 0
    spans = sorted((page * pool.stride, (page + 1) * pool.stride) for page, _ in pages)
    assert all(begin // pool.slab_bytes == (end - 1) // pool.slab_bytes for begin, end in spans)


def test_each_role_may_do_what_it_is_for() -> None:
    clients = Clients()
    scheduler, worker = clients.scheduler(), clients.worker()
    pool = clients.open(scheduler).pool
    clients.open(worker)
    observer = clients.core.attach(Attach(1, "cli@1", 1, "observer"), 3)
    supervisor = clients.core.attach(Attach(1, "supervisor@host", 1, "supervisor"), 4)
    requests: list[msgspec.Struct] = [
        Lease(1, pool, 1), Lookup(2, pool, b""), Release(3, pool, b"", b""), Seal(4, pool, b"", b"", b"", b""),
        Reassert(5, pool, b"", b"", b"", b""), Clear(6), Attach(7, "scheduler@a", 1, "scheduler"),
    ]  # fmt: skip
    for session in (worker, observer, supervisor):
        assert {clients.refused(session, request) for request in requests} == {"forbidden"}
    assert clients.refused(supervisor, StatsQuery(8)) == "forbidden"
    assert clients.refused(scheduler, Fenced(9, "scheduler@a", 2)) == "forbidden"
    assert clients.refused(worker, Fenced(10, "scheduler@b", 2)) == "forbidden"
    assert clients.refused(scheduler, Lease(11, pool + 1, 1)) == "no_pool"


def test_malformed_requests_change_nothing() -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    before = clients.core.stats()
    many = bytes(4 * (MAX_PAGES_PER_MESSAGE + 1))
    assert clients.refused(scheduler, Release(11, pool.pool, b"123", b"123")) == "malformed"
    assert clients.refused(scheduler, Release(12, pool.pool, b"1234", b"")) == "malformed"
    assert clients.refused(scheduler, Release(13, pool.pool, many, many)) == "too_large"
    assert clients.refused(scheduler, Lookup(14, pool.pool, b"123")) == "malformed"
    assert clients.refused(scheduler, Lookup(15, pool.pool, many * 4)) == "too_large"
    assert clients.refused(scheduler, Seal(16, pool.pool, b"", b"", bytes(16), b"")) == "malformed"
    assert clients.lease(scheduler, pool, -5) == []
    assert clients.core.stats() == before
    for epoch in (-1, 1 << 63):
        with pytest.raises(Refusal):
            clients.core.attach(Attach(1, "scheduler@x", epoch, "scheduler"), 1)


def test_a_block_that_continues_itself_is_not_sealed() -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    pages = clients.lease(scheduler, pool, 1)
    assert clients.seal(scheduler, pool, pages, [ROOT], ROOT) == [2]
    clients.release(scheduler, pool, pages)
    assert held(clients.core.stats()) == 0


def test_the_largest_answers_fit_into_a_packet() -> None:
    clients = Clients(slabs=300)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    chain = digests(4800)
    for start in range(0, 4800, 1200):
        clients.cache(scheduler, pool, chain[start : start + 1200], chain[start - 1] if start else ROOT)
    found = clients.core.handle(scheduler, Lookup(clients.next(), pool.pool, b"".join(chain[:MAX_PAGES_PER_MESSAGE])))
    assert len(msgspec.msgpack.encode(found)) <= MAX_PACKET_BYTES
    clients.core.end(scheduler)
    scheduler = clients.scheduler()
    clients.open(scheduler)
    leased = clients.ask(scheduler, Lease(clients.next(), pool.pool, 1 << 40), Leased)
    assert len(leased.pages) == 4 * MAX_PAGES_PER_MESSAGE
    assert len(leased.evicted) == 16 * MAX_PAGES_PER_MESSAGE
    assert len(msgspec.msgpack.encode(leased)) <= MAX_PACKET_BYTES
