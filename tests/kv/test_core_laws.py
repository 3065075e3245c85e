"""The laws of pages, for any sequence of events: clients that come, die, repeat themselves and are late, and a server
that is killed at any point and made again from the headers, with a disk that is slow, damaged and cut off.

The model knows what every digest's bytes are: each page cell holds the digest that was last written to it, so wrong
reuse of a page shows as wrong bytes. A record on disk holds what was in the cell when it was written, and as its sum
what was there when the sum was taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus.blocks import next_digest
from bus.messages.pages import (
    Attach,
    Clear,
    Denied,
    Fenced,
    Found,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    Prefetch,
    Reassert,
    Reasserted,
    Release,
    Seal,
    Sealed,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from kv.audit import faults
from kv.client import held
from kv.core import Core, Refusal
from kv.disk.index import Place
from kv.fills import Fill
from kv.headers import Headers
from kv.layout import SEALED, name_hash, plan_layout, tables
from kv.owners import Session, Writer, WriterKey
from kv.spills import Spill

SHAPES = {b"a" * 16: KvShape(1, 1, 16, 32, "float32"), b"b" * 16: KvShape(1, 1, 16, 80, "float32")}
SCHEDULERS = ["scheduler@a", "scheduler@b"]
ROOTS = dict(zip(SCHEDULERS, SHAPES, strict=True))


class Scheduler:
    """What a scheduler believes it holds."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.session: Session | None = None
        self.pool: PoolOpened | None = None
        self.leased: dict[int, int] = {}
        self.pins: list[tuple[int, int, bytes]] = []
        self.told_again = True
        self.pins_may_be_lost = False  # it hung up, or did not tell before settling ended


@dataclass
class Record:
    """A page on disk."""

    identity: bytes
    digest: bytes
    parent: bytes
    page_sum: bytes
    content: bytes


class Laws(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.layout = plan_layout((2 << 20) + 6 * (64 << 10), 64 << 10)  # six slabs: the pools fight for them
        self.memory = bytearray(self.layout.data_offset)
        self.disk: dict[Place, Record] = {}
        self.segment = 1
        self.untold: set[str] = set()
        self.fills: list[Fill] = []
        self.spills: list[tuple[Spill, bytes | None]] = []  # with their sums, once those are taken
        self.asked: dict[int, tuple[Scheduler, Session, list[bytes]]] = {}  # by rid
        self.schedulers: dict[str, Scheduler] = {}
        self.core = self.made(self.memory, 1)
        self.epochs = dict.fromkeys(SCHEDULERS, 0)
        self.workers: dict[str, str] = {}
        self.worker_may_write: dict[str, set[tuple[int, int, int]]] = {}
        self.bytes: dict[tuple[int, int], bytes] = {}  # (pool, cell) -> digest of what is there
        self.parents: dict[bytes, bytes] = {}
        self.generations: dict[tuple[int, int], int] = {}
        self.rid = 0
        self.epoch = 1

    def made(self, memory: bytearray, epoch: int, *, settling: bool = False) -> Core:
        """A server, as it is after a start: it knows the arena and what is on disk."""
        writers: dict[WriterKey, Writer] = {}
        if epoch > 1:
            writers = {key: Writer(writer.owner, writer.fenced) for key, writer in self.core.owners.writers.items()}
        holders = {
            (name_hash(name), scheduler.epoch): {scheduler.pool.pool}
            for name, scheduler in self.schedulers.items()
            if scheduler.pool is not None
        }
        core = Core(
            self.layout, tables(memory, self.layout), epoch, writers, settling=settling, holders=holders, keeping=True
        )
        core.spills.largest_page = self.layout.slab_bytes
        core.on_clear = self.disk.clear
        for place, record in self.disk.items():
            core.copies.add(record.identity, record.digest, place)
        return core

    def ask(self, session: Session, message: object) -> object:
        """Ask, and ask again, as one does who has not got the answer: it is the same, and nothing is done twice."""
        answer = self.core.handle(session, message)  # type: ignore[arg-type]
        assert not isinstance(answer, Denied), answer
        before = self.core.stats()
        assert self.core.handle(session, message) == answer  # type: ignore[arg-type]
        assert self.core.stats() == before
        return answer

    def next(self) -> int:
        self.rid += 1
        return self.rid

    # --- coming and going

    @initialize()
    def everybody_starts(self) -> None:
        for name in SCHEDULERS:
            self.start_scheduler(name)
            self.start_worker(name, 0)

    @rule(name=st.sampled_from(SCHEDULERS))
    def scheduler_starts(self, name: str) -> None:
        """A new incarnation; the old one's connection may still be open."""
        self.start_scheduler(name)

    def start_scheduler(self, name: str) -> None:
        self.epochs[name] += 1
        scheduler = Scheduler(self.epochs[name])
        scheduler.session = self.core.attach(Attach(1, name, scheduler.epoch, "scheduler"), 1)
        root = ROOTS[name]
        opened = self.ask(scheduler.session, OpenPool(self.next(), root, SHAPES[root]))
        assert isinstance(opened, PoolOpened)
        scheduler.pool = opened
        self.schedulers[name] = scheduler
        self.untold.discard(name)

    @precondition(lambda self: self.schedulers)
    @rule(name=st.sampled_from(SCHEDULERS))
    def scheduler_dies(self, name: str) -> None:
        if (scheduler := self.schedulers.pop(name, None)) is not None and scheduler.session is not None:
            self.core.end(scheduler.session)
        if scheduler is not None:
            self.core.holder_died((name_hash(name), scheduler.epoch))
            self.untold.discard(name)

    @precondition(lambda self: any(s.session is not None for s in self.schedulers.values()))
    @rule(data=st.data())
    def scheduler_hangs_up(self, data: st.DataObject) -> None:
        """It lives, and its workers go on."""
        names = sorted(name for name, s in self.schedulers.items() if s.session is not None)
        scheduler = self.schedulers[data.draw(st.sampled_from(names))]
        assert scheduler.session is not None
        self.core.end(scheduler.session)
        scheduler.session, scheduler.told_again, scheduler.pins_may_be_lost = None, False, True

    @rule(name=st.sampled_from(SCHEDULERS), number=st.integers(0, 1))
    def worker_starts(self, name: str, number: int) -> None:
        self.start_worker(name, number)

    def start_worker(self, name: str, number: int) -> None:
        worker = f"worker@{name[-1]}.{number}.0"
        if worker not in self.workers:
            self.core.attach(Attach(1, worker, 1, "worker", name), 2)
            self.workers[worker] = name
            self.worker_may_write[worker] = set()
            if (scheduler := self.schedulers.get(name)) is not None and scheduler.pool is not None:
                self.worker_may_write[worker] = {(scheduler.pool.pool, c, scheduler.epoch) for c in scheduler.leased}

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[worker]
        self.worker_may_write.pop(worker)
        if (session := self.core.owners.sessions.get(worker)) is not None:
            self.core.end(session)
        self.core.writer_died(writer_key(worker))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_hangs_up(self, data: st.DataObject) -> None:
        """Its connection is gone; it may still write."""
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        if (session := self.core.owners.sessions.get(worker)) is not None:
            self.core.end(session)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_attaches_again(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        self.core.attach(Attach(1, worker, 1, "worker", self.workers[worker]), 2)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_fences(self, data: st.DataObject) -> None:
        self.fence(data.draw(st.sampled_from(sorted(self.workers))))

    def fence(self, worker: str) -> None:
        session = self.core.owners.sessions.get(worker)
        owner = self.workers[worker]
        if session is not None:
            epoch = self.epochs[owner]  # before kv knows that the older epoch ended, or after
            self.ask(session, Fenced(self.next(), owner, epoch))
            self.worker_may_write[worker] = {w for w in self.worker_may_write[worker] if w[2] >= epoch}

    @rule(name=st.sampled_from(SCHEDULERS))
    def an_older_incarnation_is_refused(self, name: str) -> None:
        if name in self.schedulers and self.core.owners.sessions.get(name) is not None:
            with pytest.raises(Refusal):
                self.core.attach(Attach(1, name, self.epochs[name] - 1, "scheduler"), 1)

    # --- work

    def live(self, data: st.DataObject) -> tuple[str, Scheduler] | None:
        names = [name for name, s in self.schedulers.items() if s.session is not None and s.told_again]
        if not names:
            return None
        name = data.draw(st.sampled_from(sorted(names)))
        return name, self.schedulers[name]

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data(), count=st.integers(0, 60))
    def lease(self, data: st.DataObject, count: int) -> None:
        if (found := self.live(data)) is not None:
            self.lease_for(*found, count)

    def lease_for(self, name: str, scheduler: Scheduler, count: int) -> None:
        assert scheduler.session is not None
        assert scheduler.pool is not None
        leased = self.ask(scheduler.session, Lease(self.next(), scheduler.pool.pool, count))
        assert isinstance(leased, Leased)
        for cell, generation in zip(
            unpack_u32(leased.pages).tolist(), unpack_u32(leased.generations).tolist(), strict=True
        ):
            key = (scheduler.pool.pool, cell)
            # Law: no page is given out while somebody may still write it for an owner that ended.
            for worker, writes in self.worker_may_write.items():
                assert not any(w[:2] == key for w in writes), f"{worker} may still write {key}"
            assert generation > self.generations.get(key, 0)
            self.generations[key] = generation
            scheduler.leased[cell] = generation
            for worker, owner in self.workers.items():
                if owner == name:
                    self.worker_may_write[worker].add((*key, scheduler.epoch))

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data(), count=st.integers(1, 6), salt=st.integers(0, 2), onto=st.integers(0, 3))
    def write_and_seal(self, data: st.DataObject, count: int, salt: int, onto: int) -> None:
        """A chain of blocks, possibly continuing one that is pinned; possibly content that is there already."""
        if (found := self.live(data)) is not None:
            self.seal_for(found[1], count, salt, onto)

    def seal_for(self, scheduler: Scheduler, count: int, salt: int, onto: int) -> None:
        assert scheduler.session is not None
        assert scheduler.pool is not None
        cells = sorted(scheduler.leased)[:count]
        parent = scheduler.pool.pool.to_bytes(16, "big")
        if onto == 3 and self.parents:  # a block that may be cached only, or gone, or of the other pool
            parent = sorted(self.parents)[salt * 7 % len(self.parents)]
        elif onto and scheduler.pins:
            parent = scheduler.pins[onto % len(scheduler.pins)][2]
        digests, parents = [], []
        for _ in cells:
            digest = next_digest(parent, bytes([salt]))
            digests.append(digest)
            parents.append(parent)
            self.parents[digest] = parent
            parent = digest
        for cell, digest in zip(cells, digests, strict=True):
            self.bytes[scheduler.pool.pool, cell] = digest
        message = Seal(
            self.next(), scheduler.pool.pool, pack_u32(cells), pack_u32([scheduler.leased[c] for c in cells]),
            b"".join(digests), b"".join(parents),
        )  # fmt: skip
        answer = self.ask(scheduler.session, message)
        assert isinstance(answer, Sealed)
        rows = zip(
            cells, digests, unpack_u32(answer.codes).tolist(), unpack_u32(answer.pages).tolist(),
            unpack_u32(answer.generations).tolist(), strict=True,
        )  # fmt: skip
        for cell, digest, code, at, generation in rows:
            assert code in (0, 1)
            if code == 0:
                del scheduler.leased[cell]
            scheduler.pins.append((at, generation, digest))
        for worker in self.worker_may_write:  # a sealed page is not written any more
            self.worker_may_write[worker] -= {
                (scheduler.pool.pool, cell, scheduler.epoch) for cell in cells if cell not in scheduler.leased
            }

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data(), count=st.integers(5, 40), salt=st.integers(0, 2), onto=st.integers(0, 3))
    def a_request_comes_and_goes(self, data: st.DataObject, count: int, salt: int, onto: int) -> None:
        """Its pages stay in the cache until memory is short, which it soon is."""
        if (found := self.live(data)) is not None:
            self.lease_for(*found, count)
            self.seal_for(found[1], count, salt, onto)
            while found[1].pins:
                self.release_for(found[1], 8)

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def lookup(self, data: st.DataObject) -> None:
        if (found := self.live(data)) is None or not self.parents:
            return
        _, scheduler = found
        assert scheduler.session is not None
        assert scheduler.pool is not None
        chain = self.chain_to(data.draw(st.sampled_from(sorted(self.parents))))
        answer = self.ask(scheduler.session, Lookup(self.next(), scheduler.pool.pool, b"".join(chain)))
        assert isinstance(answer, Found)
        self.pinned(scheduler, chain, answer)

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data(), count=st.integers(1, 8))
    def release(self, data: st.DataObject, count: int) -> None:
        if (found := self.live(data)) is None:
            return
        name, scheduler = found
        self.release_for(scheduler, count)
        if scheduler.leased and data.draw(st.booleans()):
            self.give_up(name, scheduler, {next(reversed(scheduler.leased))})

    def release_for(self, scheduler: Scheduler, count: int) -> None:
        assert scheduler.session is not None
        assert scheduler.pool is not None
        gone = [scheduler.pins.pop() for _ in range(min(count, len(scheduler.pins)))]
        self.ask(
            scheduler.session,
            Release(self.next(), scheduler.pool.pool, pack_u32([g[0] for g in gone]), pack_u32([g[1] for g in gone])),
        )

    def give_up(self, name: str, scheduler: Scheduler, cells: set[int]) -> None:
        """Leases go back, after the last step that writes them."""
        assert scheduler.session is not None
        assert scheduler.pool is not None
        pool, generations = scheduler.pool.pool, [scheduler.leased.pop(cell) for cell in cells]
        self.ask(scheduler.session, Release(self.next(), pool, pack_u32(list(cells)), pack_u32(generations)))
        for worker, owner in self.workers.items():
            if owner == name:
                self.worker_may_write[worker] -= {(pool, cell, scheduler.epoch) for cell in cells}

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def stale_handles_change_nothing(self, data: st.DataObject) -> None:
        if (found := self.live(data)) is None:
            return
        _, scheduler = found
        assert scheduler.session is not None
        assert scheduler.pool is not None
        before = self.core.stats()
        cells = [c for pool, c in self.generations if pool == scheduler.pool.pool][:5]
        old = [self.generations[scheduler.pool.pool, c] - 1 for c in cells]
        self.ask(scheduler.session, Release(self.next(), scheduler.pool.pool, pack_u32(cells), pack_u32(old)))
        answer = self.ask(
            scheduler.session,
            Seal(
                self.next(),
                scheduler.pool.pool,
                pack_u32(cells),
                pack_u32(old),
                b"z" * 16 * len(cells),
                bytes(16 * len(cells)),
            ),
        )
        assert isinstance(answer, Sealed)
        assert set(unpack_u32(answer.codes).tolist()) <= {2}
        assert self.core.stats() == before

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        if (found := self.live(data)) is not None:
            assert found[1].session is not None
            self.ask(found[1].session, Clear(self.next()))

    # --- the server dies

    @rule(data=st.data())
    def killed_and_made_again(self, data: st.DataObject) -> None:
        """All Python state is lost. Living workers are known by the writer table; schedulers come back and tell."""
        self.kill(data)

    def kill(self, data: st.DataObject) -> None:
        before = {number: set(pool.index) for number, pool in self.core.pools.items()}
        self.epoch += 1
        self.what_was_being_written_is_cut_off(data)
        self.core = self.made(self.memory, self.epoch, settling=True)
        assert {number: set(pool.index) for number, pool in self.core.pools.items()} == before
        again = self.made(bytearray(self.memory), self.epoch, settling=True)
        assert again.stats() == self.core.stats()
        for fill in self.fills:  # nobody reads into it any more
            assert fill.cell in self.core.pools[fill.pool].free_cells()
        self.fills.clear()
        self.asked.clear()
        self.untold = set(self.schedulers)
        for scheduler in self.schedulers.values():
            scheduler.session, scheduler.told_again = None, False

    @precondition(lambda self: any(not s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def scheduler_tells_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, s in self.schedulers.items() if not s.told_again)))
        self.tell_again(name, self.schedulers[name])

    def tell_again(self, name: str, scheduler: Scheduler) -> None:
        assert scheduler.pool is not None
        scheduler.session = self.core.attach(Attach(1, name, scheduler.epoch, "scheduler"), 1)
        opened = self.ask(scheduler.session, OpenPool(self.next(), ROOTS[name], SHAPES[ROOTS[name]]))
        assert opened == PoolOpened(self.rid, *list(msg_fields(scheduler.pool))[1:])
        pins = {cell: generation for cell, generation, _ in scheduler.pins}
        answer = self.ask(
            scheduler.session,
            Reassert(
                self.next(), scheduler.pool.pool, pack_u32(list(pins)), pack_u32(list(pins.values())),
                pack_u32(list(scheduler.leased)), pack_u32(list(scheduler.leased.values())),
            ),
        )  # fmt: skip
        assert isinstance(answer, Reasserted)
        lost = set(unpack_u32(answer.lost).tolist())
        # Law: who lives loses no lease, however late it tells; and nothing at all before settling.
        assert not lost & set(scheduler.leased)
        assert scheduler.pins_may_be_lost or not lost
        scheduler.pins = [(c, g, d) for c, g, d in {p[0]: p for p in scheduler.pins}.values() if c not in lost]
        scheduler.told_again, scheduler.pins_may_be_lost = True, False
        self.untold.discard(name)

    def killed_and_soon_at_work_again(self, data: st.DataObject) -> None:
        self.kill(data)
        for name, scheduler in self.schedulers.items():
            self.tell_again(name, scheduler)

    @precondition(lambda self: self.core.settling)
    @rule()
    def settles(self) -> None:
        self.core.settle()
        for scheduler in self.schedulers.values():
            scheduler.pins_may_be_lost |= not scheduler.told_again
        self.untold.clear()

    @invariant()
    def it_is_settled_when_the_last_has_told_and_not_before(self) -> None:
        assert self.core.settling == bool(self.untold)

    # --- the disk

    @precondition(
        lambda self: self.disk and any(s.session is not None and s.told_again for s in self.schedulers.values())
    )
    @rule(data=st.data())
    def prefetch(self, data: st.DataObject) -> None:
        if (found := self.live(data)) is None:
            return
        _, scheduler = found
        assert scheduler.session is not None
        assert scheduler.pool is not None
        mine = self.core.pools[scheduler.pool.pool].identity
        there = sorted(record.digest for record in self.disk.values() if record.identity == mine)
        if not there:
            return
        chain = self.chain_to(data.draw(st.sampled_from(there)))
        message = Prefetch(self.next(), scheduler.pool.pool, b"".join(chain), 1000)
        answer = self.core.handle(scheduler.session, message)
        if answer is None:
            assert self.core.handle(scheduler.session, message) is None
            self.asked[message.rid] = scheduler, scheduler.session, chain
        else:
            assert isinstance(answer, Found)
            self.pinned(scheduler, chain, answer)

    @rule(count=st.integers(1, 4))
    def reads_begin(self, count: int) -> None:
        while len(self.fills) < count and (batch := self.core.fills.next(1 << 20, count)):
            for fill in batch:
                key = (fill.pool, fill.cell)
                generation = self.core.pools[fill.pool].leased[fill.cell]
                for worker, writes in self.worker_may_write.items():
                    assert not any(w[:2] == key for w in writes), f"{worker} may still write {key}"
                assert generation > self.generations.get(key, 0)
                self.generations[key] = generation
                self.bytes[key] = b"half a page"
                self.fills.append(fill)
        self.answers_arrive()

    @precondition(lambda self: self.fills)
    @rule(data=st.data(), fails=st.booleans())
    def a_read_ends(self, data: st.DataObject, fails: bool) -> None:
        fill = self.fills.pop(data.draw(st.integers(0, len(self.fills) - 1)))
        record = self.disk.get(fill.place)
        good = record is not None and record.digest == fill.digest and record.content == record.page_sum and not fails
        if record is not None and good:
            self.bytes[fill.pool, fill.cell] = record.content
        elif not fails:
            self.core.spills.lost_copy(fill.identity, fill.digest, fill.place.segment)
        self.core.fills.done(fill, record.parent if record is not None and good else None)
        self.answers_arrive()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def time_is_up(self, data: st.DataObject) -> None:
        rid = data.draw(st.sampled_from(sorted(self.asked)))
        self.core.fills.expire(self.asked[rid][1], rid)
        self.answers_arrive()
        assert rid not in self.asked

    @precondition(lambda self: not self.spills)
    @rule(count=st.integers(1, 5))
    def a_batch_is_chosen(self, count: int) -> None:
        self.spills = [(spill, None) for spill in self.core.spills.next(1 << 20, count)]

    @precondition(lambda self: any(page_sum is None for _, page_sum in self.spills))
    @rule()
    def sums_are_taken(self) -> None:
        self.spills = [
            (spill, page_sum or self.bytes[spill.pool, spill.cell])
            for spill, page_sum in self.spills
            if page_sum or self.still(spill)
        ]  # fmt: skip

    @property
    def summed(self) -> bool:
        return bool(self.spills) and all(page_sum is not None for _, page_sum in self.spills)

    @precondition(lambda self: self.summed)
    @rule(fails=st.booleans(), new_segment=st.booleans())
    def a_batch_is_written(self, fails: bool, new_segment: bool) -> None:
        self.segment += new_segment
        for spill, _ in self.spills:
            place = None if fails else self.write(spill)
            self.core.spills.done(spill, place if self.still(spill) else None)
        self.spills = []

    @rule()
    def the_disk_keeps_up(self) -> None:
        while True:
            self.spills = self.spills or [(spill, None) for spill in self.core.spills.next(1 << 20, 9)]
            if not self.spills:
                return
            self.sums_are_taken()
            self.a_batch_is_written(False, True)

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def memory_is_short(self, data: st.DataObject) -> None:
        """What is cached is evicted; a bit later there is room again."""
        if (found := self.live(data)) is None:
            return
        name, scheduler = found
        before = set(scheduler.leased)
        self.lease_for(name, scheduler, 100)
        self.give_up(name, scheduler, set(scheduler.leased) - before)

    @rule(data=st.data(), salt=st.integers(0, 2), goes_on=st.booleans())
    def pages_change_hands_while_they_are_written(self, data: st.DataObject, salt: int, goes_on: bool) -> None:
        if not self.spills:
            self.a_batch_is_chosen(9)
        self.memory_is_short(data)
        self.a_request_comes_and_goes(data, 40, salt, 0)
        if goes_on:
            self.sums_are_taken()
            self.a_batch_is_written(False, False)

    @rule(name=st.sampled_from(SCHEDULERS))
    def a_scheduler_starts_over(self, name: str) -> None:
        """Its worker lives, and says that it writes no more for the old one."""
        self.scheduler_dies(name)
        self.start_scheduler(name)
        for worker, owner in self.workers.items():
            if owner == name:
                self.fence(worker)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def all_reads_end(self, data: st.DataObject) -> None:
        self.reads_begin(4)
        while self.fills:
            self.a_read_ends(data, False)
            self.reads_begin(4)
        self.answers_arrive()
        assert not self.asked

    @precondition(lambda self: self.disk)
    @rule()
    def the_oldest_segment_goes(self) -> None:
        oldest = min(place.segment for place in self.disk)
        self.disk = {place: record for place, record in self.disk.items() if place.segment != oldest}
        self.core.on_clear = self.disk.clear
        self.core.spills.removed(oldest)

    @precondition(lambda self: self.disk)
    @rule(data=st.data())
    def a_bit_flips_on_disk(self, data: st.DataObject) -> None:
        self.disk[data.draw(st.sampled_from(sorted(self.disk)))].content = b"rubbish"

    def still(self, spill: Spill) -> bool:
        """By the header, as whoever writes looks at it."""
        pool = self.core.pools[spill.pool]
        header = Headers(tables(self.memory, self.layout).headers).read(pool.grid.header_of(spill.cell))
        return header is not None and (header.state, header.generation, header.digest) == (
            SEALED, spill.generation, spill.digest,
        )  # fmt: skip

    def write(self, spill: Spill) -> Place:
        place = Place(self.segment, 4096 * sum(1 for known in self.disk if known.segment == self.segment))
        page_sum = next(page_sum for known, page_sum in self.spills if known == spill)
        assert page_sum is not None
        content = self.bytes[spill.pool, spill.cell]
        self.disk[place] = Record(spill.identity, spill.digest, spill.parent, page_sum, content)
        return place

    def what_was_being_written_is_cut_off(self, data: st.DataObject) -> None:
        """A kill: the file has any part of the batch, listed or not, and may have lost more than that."""
        written = [self.write(spill) for spill, page_sum in self.spills if page_sum is not None]
        self.spills = []
        newest = sorted(place for place in self.disk if place.segment == self.segment)
        for place in newest[len(newest) - data.draw(st.integers(0, len(written) + 2)) :]:
            self.disk.pop(place, None)
        self.segment += 1

    def answers_arrive(self) -> None:
        """Those whose session has ended are not answered."""
        living = list(self.core.owners.sessions.values())
        self.asked = {rid: question for rid, question in self.asked.items() if question[1] in living}
        for session, answer in self.core.answers():
            assert isinstance(answer, Found)
            scheduler, asker, chain = self.asked.pop(answer.rid)
            assert session is asker
            if scheduler.session is session:
                self.pinned(scheduler, chain, answer)

    def chain_to(self, digest: bytes) -> list[bytes]:
        chain = [digest]
        while chain[0] in self.parents:
            chain.insert(0, self.parents[chain[0]])
        return chain[1:]  # the root is no block

    def pinned(self, scheduler: Scheduler, chain: list[bytes], found: Found) -> None:
        assert scheduler.pool is not None
        pages, generations = unpack_u32(found.pages).tolist(), unpack_u32(found.generations).tolist()
        for digest, cell, generation in zip(chain, pages, generations, strict=False):
            assert self.bytes[scheduler.pool.pool, cell] == digest, "wrong bytes were found"
            scheduler.pins.append((cell, generation, digest))

    # --- always

    @invariant()
    def an_audit_finds_nothing(self) -> None:
        assert list(faults(self.core, tables(self.memory, self.layout))) == []

    @invariant()
    def generations_are_those_that_were_given_out(self) -> None:
        for number, pool in self.core.pools.items():
            for cell, generation in pool.leased.items():
                assert generation == self.generations[number, cell]
            for cell, page in pool.sealed.items():
                assert page.generation == self.generations[number, cell]

    @invariant()
    def pinned_pages_stay(self) -> None:
        for scheduler in self.schedulers.values():
            if scheduler.session is not None and scheduler.told_again and scheduler.pool is not None:
                pool = self.core.pools[scheduler.pool.pool]
                for cell, generation, digest in scheduler.pins:
                    assert pool.sealed[cell].generation == generation
                    assert self.bytes[scheduler.pool.pool, cell] == digest

    @invariant()
    def what_is_being_filled_is_nobodys_and_what_is_kept_is_on_disk(self) -> None:
        running = {(fill.pool, fill.cell) for fill in self.fills}
        assert self.core.fills.running == running
        for session in self.core.owners.sessions.values():
            assert not running & (session.leases | set(session.pins))
        writing = {(spill.pool, spill.cell) for spill, _ in self.spills}
        for number, pool in self.core.pools.items():
            assert {cell for n, cell in running if n == number} <= set(pool.leased)
            assert {(number, cell) for cell in pool.writing} <= writing
            for cell, page in pool.sealed.items():
                if page.kept and cell not in pool.writing:
                    assert self.core.copies.has(pool.identity, page.digest)
                assert not (page.kept and cell in pool.unkept)
            assert set(pool.unkept) <= set(pool.sealed)

    @invariant()
    def a_session_has_the_pins_that_it_was_told_of_or_will_be(self) -> None:
        for scheduler in self.schedulers.values():
            if scheduler.session is not None and scheduler.told_again and scheduler.pool is not None:
                pins = Counter((scheduler.pool.pool, cell) for cell, _, _ in scheduler.pins)
                for asked in self.core.fills._open.values():
                    if asked.session is scheduler.session:
                        pins.update((asked.pool.number, cell) for cell in asked.held.values())
                assert pins == scheduler.session.pins

    @invariant()
    def what_is_listed_is_on_disk(self) -> None:
        for pool in self.core.pools.values():
            for digest in self.parents:
                place = self.core.copies.find(pool.identity, digest)
                assert place is None or self.disk[place].digest == digest

    def teardown(self) -> None:
        """When everybody is gone, every page is free or cached."""
        if self.core.settling:
            self.core.settle()
        for fill in self.fills:
            self.core.fills.done(fill, None)
        for session in list(self.core.owners.sessions.values()):
            self.core.end(session)
        for worker in self.workers:
            self.core.writer_died(writer_key(worker))
        for name, scheduler in self.schedulers.items():
            self.core.holder_died((name_hash(name), scheduler.epoch))
        stats = self.core.stats()
        assert held(stats) == 0
        assert all(pool.free + pool.cached == pool.total for pool in stats.pools)


def writer_key(worker: str) -> WriterKey:
    return name_hash(worker), 1


def msg_fields(message: object) -> tuple[object, ...]:
    return msgspec.structs.astuple(message)  # type: ignore[arg-type]


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

# Among all rules the disk's come too seldom one after the other: a page must be written, evicted, asked for and read.
DISK_STEPS: Final[dict[str, int]] = {
    "a_request_comes_and_goes": 4, "the_disk_keeps_up": 3, "memory_is_short": 3, "prefetch": 5, "reads_begin": 5,
    "a_read_ends": 6, "a_batch_is_chosen": 2, "sums_are_taken": 3, "a_batch_is_written": 2, "lookup": 2, "release": 1,
    "pages_change_hands_while_they_are_written": 3, "time_is_up": 1, "a_scheduler_starts_over": 1,
    "the_oldest_segment_goes": 1, "a_bit_flips_on_disk": 1, "killed_and_soon_at_work_again": 2,
}  # fmt: skip
DISK_STEP = st.sampled_from([name for name, weight in DISK_STEPS.items() for _ in range(weight)])


@settings(max_examples=150, deadline=None)
@given(st.lists(DISK_STEP, min_size=30, max_size=80), st.data())
def test_the_laws_hold_where_the_disk_is_busy(steps: list[str], data: st.DataObject) -> None:
    laws = Laws()
    laws.everybody_starts()
    draw = data.draw
    take: dict[str, Callable[[], object]] = {
        "a_request_comes_and_goes": lambda: laws.a_request_comes_and_goes(
            data, draw(st.integers(5, 40)), draw(st.integers(0, 2)), draw(st.sampled_from([0, 0, 3]))
        ),
        "the_disk_keeps_up": laws.the_disk_keeps_up,
        "memory_is_short": lambda: laws.memory_is_short(data),
        "prefetch": lambda: laws.prefetch(data),
        "reads_begin": lambda: laws.reads_begin(4),
        "a_read_ends": lambda: (
            laws.fills and laws.a_read_ends(data, draw(st.sampled_from([False, False, False, True])))
        ),
        "a_batch_is_chosen": lambda: not laws.spills and laws.a_batch_is_chosen(draw(st.integers(1, 9))),
        "sums_are_taken": laws.sums_are_taken,
        "a_batch_is_written": lambda: laws.summed and laws.a_batch_is_written(draw(st.booleans()), draw(st.booleans())),
        "lookup": lambda: laws.lookup(data),
        "pages_change_hands_while_they_are_written": lambda: laws.pages_change_hands_while_they_are_written(
            data, draw(st.integers(0, 2)), draw(st.booleans())
        ),
        "a_scheduler_starts_over": lambda: laws.a_scheduler_starts_over(draw(st.sampled_from(SCHEDULERS))),
        "release": lambda: laws.release(data, 8),
        "time_is_up": lambda: laws.asked and laws.time_is_up(data),
        "the_oldest_segment_goes": lambda: laws.disk and laws.the_oldest_segment_goes(),
        "a_bit_flips_on_disk": lambda: laws.disk and laws.a_bit_flips_on_disk(data),
        "killed_and_soon_at_work_again": lambda: laws.killed_and_soon_at_work_again(data),
    }
    for step in steps:
        take[step]()
        for law in laws.invariants:
            law.function(laws)
    laws.teardown()
