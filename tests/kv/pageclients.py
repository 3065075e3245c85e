"""What tests of the core start from: an arena in plain memory, clients, and short ways to ask."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np

from bus.messages.pages import (
    Attach,
    Denied,
    Done,
    Found,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    Release,
    Seal,
    Sealed,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from kv.core import Core
from kv.layout import Layout, plan_layout, tables
from kv.owners import Session, Writer, WriterKey
from kv.pool import Owner

SLAB = 64 << 10
ROOT = b"r" * 16
SMALL = KvShape(1, 1, 16, 32, "float32")  # 4 KiB: 16 pages a slab
LARGE = KvShape(4, 1, 16, 48, "float32")  # 24 KiB: 2 pages a slab

Reply = TypeVar("Reply", bound=msgspec.Struct)
Pages = list[tuple[int, int]]


class Clients:
    """A core, and a counter of requests."""

    def __init__(self, slabs: int = 4, *, memory: bytearray | None = None, keeping: bool = False) -> None:
        self.layout: Layout = plan_layout((2 << 20) + slabs * SLAB, SLAB)
        self.memory = memory if memory is not None else bytearray(self.layout.data_offset)
        self.core = Core(self.layout, tables(self.memory, self.layout), 1, keeping=keeping)
        self.rid = 0

    def next(self) -> int:
        self.rid += 1
        return self.rid

    def ask(self, session: Session, message: msgspec.Struct, expected: type[Reply]) -> Reply:
        answer = self.core.handle(session, message)  # type: ignore[arg-type]
        assert isinstance(answer, expected), answer
        return answer

    def refused(self, session: Session, message: msgspec.Struct) -> str:
        return self.ask(session, message, Denied).reason

    def dies(self, session: Session) -> None:
        """Its process: kv sees the hang-up and the death."""
        self.core.end(session)
        if session.role == "worker":
            self.core.writer_died(session.writer)
        else:
            self.core.holder_died(session.owner)

    def everybody_dies(self) -> None:
        for session in list(self.core.owners.sessions.values()):
            self.core.end(session)
        for writer in list(self.core.owners.writers):
            self.core.writer_died(writer)
        for owner in list(self.core.owners.living):
            self.core.holder_died(owner)

    def killed_and_made_again(self, *, settling: bool = True, holders: dict[Owner, set[int]] | None = None) -> None:
        writers: dict[WriterKey, Writer] = {
            key: Writer(writer.owner, writer.fenced) for key, writer in self.core.owners.writers.items()
        }
        kv_epoch = self.core.kv_epoch + 1
        arena = tables(self.memory, self.layout)
        self.core = Core(self.layout, arena, kv_epoch, writers, settling=settling, holders=holders)

    def scheduler(self, name: str = "scheduler@a", epoch: int = 1) -> Session:
        return self.core.attach(Attach(self.next(), name, epoch, "scheduler"), 1)

    def worker(self, name: str = "worker@a.0.0", epoch: int = 1, owner: str = "scheduler@a") -> Session:
        return self.core.attach(Attach(self.next(), name, epoch, "worker", owner), 2)

    def open(self, session: Session, shape: KvShape = SMALL, root: bytes = ROOT) -> PoolOpened:
        return self.ask(session, OpenPool(self.next(), root, shape), PoolOpened)

    def lease(self, session: Session, pool: PoolOpened, count: int) -> Pages:
        leased = self.ask(session, Lease(self.next(), pool.pool, count), Leased)
        return unpacked(leased.pages, leased.generations)

    def seal(self, session: Session, pool: PoolOpened, pages: Pages, digests: list[bytes], parent: bytes) -> list[int]:
        """Seal a chain of blocks that continues `parent`; the codes."""
        parents = [parent, *digests][: len(digests)]
        message = Seal(self.next(), pool.pool, *packed(pages), b"".join(digests), b"".join(parents))
        return unpack_u32(self.ask(session, message, Sealed).codes).tolist()

    def cache(self, session: Session, pool: PoolOpened, digests: list[bytes], parent: bytes) -> Pages:
        """Lease, seal and release a chain: cached pages."""
        pages = self.lease(session, pool, len(digests))
        assert self.seal(session, pool, pages, digests, parent) == [0] * len(digests)
        self.release(session, pool, pages)
        return pages

    def find(self, session: Session, pool: PoolOpened, digests: list[bytes]) -> Pages:
        found = self.ask(session, Lookup(self.next(), pool.pool, b"".join(digests)), Found)
        return unpacked(found.pages, found.generations)

    def release(self, session: Session, pool: PoolOpened, pages: Pages) -> None:
        self.ask(session, Release(self.next(), pool.pool, *packed(pages)), Done)


def packed(pages: Pages) -> tuple[bytes, bytes]:
    return pack_u32([page for page, _ in pages]), pack_u32([generation for _, generation in pages])


def unpacked(pages: bytes, generations: bytes) -> Pages:
    return list(zip(unpack_u32(pages).tolist(), unpack_u32(generations).tolist(), strict=True))


def digests(count: int, seed: int = 0) -> list[bytes]:
    """Distinct digests."""
    return [bytes(row) for row in np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)]
