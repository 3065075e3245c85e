"""The laws of pages, for any sequence of events: clients that come, die, repeat themselves and are late, and a server
that is killed at any point and made again from the headers.

The model knows what every digest's bytes are: each page cell holds the digest that was last written to it, so wrong
reuse of a page shows as wrong bytes.
"""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
from kv.layout import name_hash, plan_layout, tables
from kv.owners import Session, Writer, WriterKey

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
        self.late = False  # it did not tell before settling ended


class Laws(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.layout = plan_layout((2 << 20) + 6 * (64 << 10), 64 << 10)  # six slabs: the pools fight for them
        self.memory = bytearray(self.layout.data_offset)
        self.core = Core(self.layout, tables(self.memory, self.layout), 1)
        self.schedulers: dict[str, Scheduler] = {}
        self.epochs = dict.fromkeys(SCHEDULERS, 0)
        self.workers: dict[str, str] = {}
        self.worker_may_write: dict[str, set[tuple[int, int, int]]] = {}
        self.bytes: dict[tuple[int, int], bytes] = {}  # (pool, cell) -> digest of what is there
        self.parents: dict[bytes, bytes] = {}
        self.generations: dict[tuple[int, int], int] = {}
        self.rid = 0
        self.epoch = 1

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
            self.scheduler_starts(name)
            self.worker_starts(name, 0)

    @rule(name=st.sampled_from(SCHEDULERS))
    def scheduler_starts(self, name: str) -> None:
        """A new incarnation; the old one's connection may still be open."""
        self.epochs[name] += 1
        scheduler = Scheduler(self.epochs[name])
        scheduler.session = self.core.attach(Attach(1, name, scheduler.epoch, "scheduler"), 1)
        root = ROOTS[name]
        opened = self.ask(scheduler.session, OpenPool(self.next(), root, SHAPES[root]))
        assert isinstance(opened, PoolOpened)
        scheduler.pool = opened
        self.schedulers[name] = scheduler

    @precondition(lambda self: self.schedulers)
    @rule(name=st.sampled_from(SCHEDULERS))
    def scheduler_dies(self, name: str) -> None:
        if (scheduler := self.schedulers.pop(name, None)) is not None and scheduler.session is not None:
            self.core.end(scheduler.session)

    @rule(name=st.sampled_from(SCHEDULERS), number=st.integers(0, 1))
    def worker_starts(self, name: str, number: int) -> None:
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
        worker = data.draw(st.sampled_from(sorted(self.workers)))
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
        if (found := self.live(data)) is None:
            return
        name, scheduler = found
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
        if (found := self.live(data)) is None:
            return
        _, scheduler = found
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
            digest = bytes([(parent[0] * 7 + salt * 31 + 1) % 256]) + parent[:14] + bytes([salt])
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
    @rule(data=st.data())
    def lookup(self, data: st.DataObject) -> None:
        if (found := self.live(data)) is None or not self.parents:
            return
        _, scheduler = found
        assert scheduler.session is not None
        assert scheduler.pool is not None
        chain = [data.draw(st.sampled_from(sorted(self.parents)))]
        while chain[0] in self.parents:
            chain.insert(0, self.parents[chain[0]])
        chain = chain[1:]  # the root is no block
        answer = self.ask(scheduler.session, Lookup(self.next(), scheduler.pool.pool, b"".join(chain)))
        assert isinstance(answer, Found)
        pages, generations = unpack_u32(answer.pages).tolist(), unpack_u32(answer.generations).tolist()
        for digest, cell, generation in zip(chain, pages, generations, strict=False):
            assert self.bytes[scheduler.pool.pool, cell] == digest, "a look-up found wrong bytes"
            scheduler.pins.append((cell, generation, digest))

    @precondition(lambda self: any(s.session is not None and s.told_again for s in self.schedulers.values()))
    @rule(data=st.data(), count=st.integers(1, 8))
    def release(self, data: st.DataObject, count: int) -> None:
        if (found := self.live(data)) is None:
            return
        name, scheduler = found
        assert scheduler.session is not None
        assert scheduler.pool is not None
        gone = [scheduler.pins.pop() for _ in range(min(count, len(scheduler.pins)))]
        self.ask(
            scheduler.session,
            Release(self.next(), scheduler.pool.pool, pack_u32([g[0] for g in gone]), pack_u32([g[1] for g in gone])),
        )
        if data.draw(st.booleans()) and scheduler.leased:
            cell, generation = scheduler.leased.popitem()
            self.ask(
                scheduler.session, Release(self.next(), scheduler.pool.pool, pack_u32([cell]), pack_u32([generation]))
            )
            for worker, owner in self.workers.items():  # released only after the last step that writes it
                if owner == name:
                    self.worker_may_write[worker].discard((scheduler.pool.pool, cell, scheduler.epoch))

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

    @rule()
    def killed_and_made_again(self) -> None:
        """All Python state is lost. Living workers are known by the writer table; schedulers come back and tell."""
        before = {number: set(pool.index) for number, pool in self.core.pools.items()}
        self.epoch += 1
        writers = {key: Writer(writer.owner, writer.fenced) for key, writer in self.core.owners.writers.items()}
        self.core = Core(self.layout, tables(self.memory, self.layout), self.epoch, writers, settling=True)
        assert {number: set(pool.index) for number, pool in self.core.pools.items()} == before
        again = Core(self.layout, tables(bytearray(self.memory), self.layout), self.epoch, writers, settling=True)
        assert again.stats() == self.core.stats()
        for scheduler in self.schedulers.values():
            scheduler.session, scheduler.told_again = None, False

    @precondition(lambda self: any(not s.told_again for s in self.schedulers.values()))
    @rule(data=st.data())
    def scheduler_tells_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, s in self.schedulers.items() if not s.told_again)))
        scheduler = self.schedulers[name]
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
        if self.core.settling and not scheduler.late:
            assert not lost, "nothing may be lost before settling"
        scheduler.pins = [(c, g, d) for c, g, d in {p[0]: p for p in scheduler.pins}.values() if c not in lost]
        scheduler.leased = {c: g for c, g in scheduler.leased.items() if c not in lost}
        scheduler.told_again, scheduler.late = True, False

    @rule()
    def settles(self) -> None:
        if self.core.settling:
            self.core.settle()
            for scheduler in self.schedulers.values():
                scheduler.late = scheduler.late or not scheduler.told_again

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

    def teardown(self) -> None:
        """When everybody is gone, every page is free or cached."""
        if self.core.settling:
            self.core.settle()
        for session in list(self.core.owners.sessions.values()):
            self.core.end(session)
        for worker in self.workers:
            self.core.writer_died(writer_key(worker))
        assert held(self.core.stats()) == 0


def writer_key(worker: str) -> WriterKey:
    return name_hash(worker), 1


def msg_fields(message: object) -> tuple[object, ...]:
    return msgspec.structs.astuple(message)  # type: ignore[arg-type]


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
