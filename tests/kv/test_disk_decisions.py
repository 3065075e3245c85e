"""What is written to disk when, and who gets what from there. No disk: the tests say what it did."""

from __future__ import annotations

import pytest
from pageclients import LARGE, ROOT, SLAB, SMALL, Clients, Pages, digests, unpacked

from bus.messages.pages import Clear, Done, Found, Lookup, OpenPool, PoolOpened, Prefetch
from kv.disk.index import DiskIndex, Place
from kv.disk.record import record_size
from kv.disk.tier import ReadRate
from kv.fills import MAX_PREFETCHES, Fill
from kv.owners import Session

CHAIN = digests(12)


class Tiered(Clients):
    """Clients of a core with a disk that does what it is told, when it is told."""

    def __init__(self, slabs: int = 4) -> None:
        super().__init__(slabs, keeping=True)
        self.core.spills.largest_page = SLAB
        self.offset = 0

    def write_all(self, segment: int = 1) -> list[bytes]:
        """The digests, as they were written."""
        written = []
        while batch := self.core.spills.next(1 << 20, 5):
            for spill in batch:
                self.offset += record_size(SMALL.page_bytes)
                self.core.spills.done(spill, Place(segment, self.offset))
                written.append(spill.digest)
        return written

    def forget(self, scheduler: Session, pool: PoolOpened) -> None:
        """Memory was needed for others, and is free again."""
        self.release(scheduler, pool, self.lease(scheduler, pool, 4096))
        assert not self.core.pools[pool.pool].sealed

    def prefetch(self, scheduler: Session, pool: PoolOpened, chain: list[bytes]) -> Pages | int:
        """Pages, or the number of a question that is not answered yet."""
        message = Prefetch(self.next(), pool.pool, b"".join(chain), 1000)
        answer = self.core.handle(scheduler, message)
        if answer is None:
            return message.rid
        assert isinstance(answer, Found)
        return unpacked(answer.pages, answer.generations)

    def begin(self) -> Fill | None:
        """A read of one page begins."""
        return next(iter(self.core.fills.next(1 << 20, 1)), None)

    def read(self, *, good: bool = True) -> Fill | None:
        """It begins and ends."""
        if (fill := self.begin()) is not None:
            parents = dict(zip(CHAIN, [ROOT, *CHAIN], strict=False))
            self.core.fills.done(fill, parents[fill.digest] if good else None)
        return fill

    def answers(self) -> dict[tuple[str, int], int]:
        """How many pages each session got for its question."""
        return {
            (session.name, answer.rid): len(answer.pages) // 4
            for session, answer in self.core.answers()
            if isinstance(answer, Found)
        }


def tiered(slabs: int = 4, keep: int = len(CHAIN)) -> tuple[Tiered, Session, PoolOpened]:
    """A chain that is on disk and not in memory."""
    clients = Tiered(slabs)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    if keep:
        clients.cache(scheduler, pool, CHAIN[:keep], ROOT)
        clients.write_all()
        clients.forget(scheduler, pool)
    return clients, scheduler, pool


# --- what is written


def test_a_block_is_written_after_those_before_it_and_once() -> None:
    clients, scheduler, pool = tiered(keep=0)
    clients.cache(scheduler, pool, CHAIN[:8], ROOT)
    assert clients.write_all() == CHAIN[:8]
    clients.release(scheduler, pool, clients.find(scheduler, pool, CHAIN[:8]))
    assert clients.write_all() == []
    clients.cache(scheduler, pool, CHAIN[8:], CHAIN[7])
    assert clients.write_all() == CHAIN[8:]


def test_what_is_held_is_not_written_unless_something_behind_it_is_not() -> None:
    clients, scheduler, pool = tiered(keep=0)
    pages = clients.lease(scheduler, pool, 4)
    clients.seal(scheduler, pool, pages, CHAIN[:4], ROOT)
    assert clients.write_all() == []
    clients.release(scheduler, pool, pages[3:])
    assert clients.write_all() == CHAIN[:4]


def test_what_is_evicted_before_it_is_written_is_lost_and_counted() -> None:
    clients, scheduler, pool = tiered(keep=0)
    clients.cache(scheduler, pool, CHAIN[:3], ROOT)
    (*_, spill) = clients.core.spills.next(1 << 20, 3)
    clients.forget(scheduler, pool)  # nobody waits for the write
    clients.core.spills.done(spill, None)
    assert clients.core.stats().disk_lost_total == 0  # it was on its way; whether it got there is the disk's to say
    clients.cache(scheduler, pool, CHAIN[:3], ROOT)
    clients.forget(scheduler, pool)
    assert clients.core.stats().disk_lost_total == 3


def test_what_is_being_written_is_evicted_last() -> None:
    clients, scheduler, pool = tiered(slabs=1, keep=0)
    for at in range(3):
        clients.cache(scheduler, pool, [CHAIN[at]], ROOT)
    (spill,) = clients.core.spills.next(1 << 20, 1)
    assert spill.digest == CHAIN[0]
    clients.lease(scheduler, pool, 13 + 2)
    assert list(clients.core.pools[pool.pool].index) == [CHAIN[0]]
    clients.lease(scheduler, pool, 1)
    assert not clients.core.pools[pool.pool].index


def test_pools_take_turns_and_pages_without_room_in_a_segment_are_left_out() -> None:
    clients, scheduler, small = tiered(keep=0)
    large = clients.ask(scheduler, OpenPool(clients.next(), b"l" * 16, LARGE), PoolOpened)
    clients.cache(scheduler, small, CHAIN[:6], ROOT)
    clients.cache(scheduler, large, CHAIN[6:8], ROOT)
    assert clients.core.spills.waiting == 8
    batches = [clients.core.spills.next(1 << 20, 2)[0].pool for _ in range(4)]
    assert batches == [small.pool, large.pool, small.pool, small.pool]
    clients.core.spills.largest_page = SMALL.page_bytes
    clients.cache(scheduler, large, CHAIN[8:10], ROOT)
    assert clients.core.spills.waiting == 0
    assert clients.core.spills.next(1 << 20, 2) == []


def test_what_a_removed_segment_had_is_written_again_while_it_is_in_memory() -> None:
    clients, scheduler, pool = tiered(keep=0)
    clients.cache(scheduler, pool, CHAIN[:4], ROOT)
    clients.write_all(segment=1)
    clients.core.spills.removed(1)
    assert sorted(clients.write_all(segment=2)) == sorted(CHAIN[:4])


def test_an_old_copy_is_renewed_when_its_page_was_used() -> None:
    clients, scheduler, pool = tiered(keep=0)
    for segment in range(1, 9):
        clients.cache(scheduler, pool, [CHAIN[segment]], ROOT)
        clients.write_all(segment)
    clients.core.spills.removed(1)  # the log is full: what is in 2, 3 and 4 will follow soon
    clients.forget(scheduler, pool)
    for segment in (3, 7):
        clients.prefetch(scheduler, pool, [CHAIN[segment]])
        clients.read()
    clients.core.end(scheduler)
    assert clients.write_all(9) == [CHAIN[3]]


def test_clear_forgets_the_disk_as_well() -> None:
    clients, scheduler, pool = tiered()
    told: list[bool] = []
    clients.core.on_clear = lambda: told.append(True)
    clients.ask(scheduler, Clear(clients.next()), Done)
    assert told == [True]
    assert clients.ask(scheduler, Lookup(clients.next(), pool.pool, CHAIN[0]), Found).ahead == 0


# --- what comes back


def test_a_lookup_says_what_is_ahead_and_how_long_it_takes() -> None:
    clients, scheduler, pool = tiered()
    clients.core.fills.bytes_per_s = 4096e6
    clients.cache(scheduler, pool, CHAIN[:2], ROOT)
    found = clients.ask(scheduler, Lookup(clients.next(), pool.pool, b"".join([*CHAIN, b"?" * 16])), Found)
    assert (len(found.pages) // 4, found.ahead, found.ahead_us) == (2, 10, 10)
    clients.core.fills.usable = False
    assert clients.ask(scheduler, Lookup(clients.next(), pool.pool, b"".join(CHAIN)), Found).ahead == 0


def test_the_answer_comes_when_all_is_there_and_is_pinned() -> None:
    clients, scheduler, pool = tiered()
    rid = clients.prefetch(scheduler, pool, CHAIN)
    for done in range(len(CHAIN)):
        assert not clients.core.answers()
        assert clients.core.stats().pools[0].pinned == done
        clients.read()
    assert clients.answers() == {("scheduler@a", rid): 12}
    assert clients.core.stats().pools[0].pinned == 12
    assert clients.core.stats().disk_reads_total == 12


def test_records_that_lie_one_behind_the_other_are_read_at_once() -> None:
    clients, scheduler, pool = tiered(keep=0)
    clients.cache(scheduler, pool, CHAIN[:5], ROOT)
    clients.write_all()
    clients.offset += 4096  # the next ones lie elsewhere
    clients.cache(scheduler, pool, CHAIN[5:], CHAIN[4])
    clients.write_all()
    clients.forget(scheduler, pool)
    rid = clients.prefetch(scheduler, pool, CHAIN)
    lengths = []
    while batch := clients.core.fills.next(4 * SMALL.page_bytes, 100):
        lengths.append(len(batch))
        for fill in batch:
            clients.core.fills.done(fill, ROOT)
    assert lengths == [4, 1, 4, 3]
    assert clients.answers() == {("scheduler@a", rid): 12}


def test_two_who_want_one_page_get_one_read() -> None:
    clients, scheduler, pool = tiered()
    other = clients.scheduler("scheduler@b")
    clients.open(other)
    first = clients.prefetch(scheduler, pool, CHAIN[:3])
    second = clients.prefetch(other, pool, CHAIN[:5])
    reads = 0
    while clients.read() is not None:
        reads += 1
    assert reads == 5
    assert clients.answers() == {("scheduler@a", first): 3, ("scheduler@b", second): 5}


def test_time_is_up_and_what_nobody_waits_for_is_not_read() -> None:
    clients, scheduler, pool = tiered()
    rid = clients.prefetch(scheduler, pool, CHAIN)
    running = clients.begin()
    assert isinstance(rid, int)
    assert running is not None
    clients.core.fills.expire(scheduler, rid)
    clients.core.fills.expire(scheduler, rid)
    assert clients.answers() == {("scheduler@a", rid): 0}
    assert clients.begin() is None
    clients.core.fills.done(running, ROOT)  # it comes too late for us, and is cached
    assert clients.core.stats().pools[0].cached == 1
    assert not clients.core.fills.busy


def test_a_block_that_cannot_be_read_ends_the_chain() -> None:
    clients, scheduler, pool = tiered()
    rid = clients.prefetch(scheduler, pool, CHAIN)
    fills = [fill for fill in (clients.begin() for _ in range(4)) if fill is not None]
    for fill, parent in reversed(list(zip(fills, [ROOT, CHAIN[0], None, CHAIN[2]], strict=True))):
        clients.core.fills.done(fill, parent)
    assert clients.answers() == {("scheduler@a", rid): 2}
    stats = clients.core.stats().pools[0]
    assert (stats.pinned, stats.cached, stats.filling, stats.leased) == (2, 1, 0, 0)
    assert clients.begin() is None


def test_a_block_that_somebody_computes_meanwhile_is_not_read_or_read_in_vain() -> None:
    clients, scheduler, pool = tiered()
    rid = clients.prefetch(scheduler, pool, CHAIN[:2])
    running = clients.begin()
    assert running is not None
    clients.cache(scheduler, pool, CHAIN[:2], ROOT)
    clients.core.fills.done(running, ROOT)
    assert clients.read() is None
    assert clients.answers() == {("scheduler@a", rid): 2}
    assert clients.core.stats().pools[0].pinned == 2


def test_without_room_the_answer_is_short_and_comes_at_once() -> None:
    clients, scheduler, pool = tiered(slabs=1)
    held = clients.lease(scheduler, pool, 14)
    rid = clients.prefetch(scheduler, pool, CHAIN)
    while clients.read() is not None:
        pass
    assert clients.answers() == {("scheduler@a", rid): 2}
    clients.release(scheduler, pool, held)


def test_before_settling_nothing_is_evicted_for_a_read() -> None:
    clients, scheduler, pool = tiered(slabs=1)
    clients.cache(scheduler, pool, digests(16, seed=5), ROOT)
    clients.core.settling = True
    rid = clients.prefetch(scheduler, pool, CHAIN)
    assert clients.read() is None
    assert clients.answers() == {("scheduler@a", rid): 0}
    assert clients.core.stats().pools[0].cached == 16


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_session_that_ends_leaves_no_pin_and_no_question(epoch: int) -> None:
    """Also where it is only its connection that is a new one."""
    clients, scheduler, pool = tiered()
    clients.prefetch(scheduler, pool, CHAIN)
    for _ in range(3):
        clients.read()
    again = clients.scheduler(epoch=epoch)
    assert clients.core.stats().pools[0].pinned == 0
    assert clients.read() is None
    assert not clients.core.answers()
    clients.open(again)
    assert isinstance(clients.prefetch(again, pool, CHAIN), int)


def test_the_same_question_again_is_one_question() -> None:
    clients, scheduler, pool = tiered()
    message = Prefetch(clients.next(), pool.pool, b"".join(CHAIN[:2]), 1000)
    assert clients.core.handle(scheduler, message) is None
    assert clients.core.handle(scheduler, message) is None
    clients.read()
    clients.read()
    ((_, answer),) = clients.core.answers()
    assert clients.core.handle(scheduler, message) == answer
    assert clients.core.stats().pools[0].pinned == 2


def test_too_many_questions_are_answered_at_once() -> None:
    clients, scheduler, pool = tiered()
    for _ in range(MAX_PREFETCHES):
        assert isinstance(clients.prefetch(scheduler, pool, CHAIN), int)
    assert clients.prefetch(scheduler, pool, CHAIN) == []


def test_a_chain_that_bites_its_tail_ends_there() -> None:
    clients, scheduler, pool = tiered()
    rid = clients.prefetch(scheduler, pool, [CHAIN[0], CHAIN[1], CHAIN[0], CHAIN[2]])
    while clients.read() is not None:
        pass
    assert clients.answers() == {("scheduler@a", rid): 2}


def test_blocks_that_name_each_other_in_a_circle_are_written_all_the_same() -> None:
    clients, scheduler, pool = tiered(keep=0)
    pages = clients.lease(scheduler, pool, 2)
    clients.seal(scheduler, pool, pages[:1], CHAIN[:1], CHAIN[1])
    clients.seal(scheduler, pool, pages[1:], CHAIN[1:2], CHAIN[0])
    clients.release(scheduler, pool, pages)
    assert sorted(clients.write_all()) == sorted(CHAIN[:2])


# --- the parts


def test_the_newest_copy_counts() -> None:
    index = DiskIndex()
    index.add(ROOT, CHAIN[0], Place(2, 8192))
    index.add(ROOT, CHAIN[0], Place(1, 4096))
    assert index.find(ROOT, CHAIN[0]) == Place(2, 8192)
    assert index.drop(1) == []
    assert not index.forget(ROOT, CHAIN[0], 1)
    index.add(ROOT, CHAIN[0], Place(3, 0))
    assert index.drop(2) == []
    assert index.pages == 1
    assert index.drop(3) == [(ROOT, CHAIN[0])]
    assert (index.pages, index.find(ROOT, CHAIN[0])) == (0, None)


def test_the_rate_counts_only_the_time_in_which_something_is_read() -> None:
    rate = ReadRate(100e6)
    now = 0.0
    for _ in range(500):
        rate.began(now)
        rate.began(now)
        rate.ended(now + 0.001, 1_000_000)
        measured = rate.ended(now + 0.002, 1_000_000)
        now += 5.0
    assert measured == pytest.approx(1e9, rel=0.01)


def test_leases_are_not_answered_with_what_is_being_filled() -> None:
    clients, scheduler, pool = tiered(slabs=1)
    clients.prefetch(scheduler, pool, CHAIN)
    fill = clients.begin()
    assert fill is not None
    assert len(clients.lease(scheduler, pool, 100)) == 15
    assert clients.core.stats().pools[0].filling == 1
