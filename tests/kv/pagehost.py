"""A page server as a process of its own that may be killed and started, and a client of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bus.blocks import chain
from bus.identity import Visitor
from bus.loop import PollLoop
from bus.memfd import create_memfd
from bus.messages.pages import (
    Done,
    Found,
    FromKv,
    Lease,
    Leased,
    Lookup,
    OpenPool,
    PoolOpened,
    PoolStats,
    Release,
    Seal,
    Sealed,
    Stats,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from bus.seqpacket import PacketClient
from kv.client import ArenaMap, attach_blocking, call, held

ROOT = b"m" * 16
SHAPE = KvShape(2, 1, 16, 8, "float32")
ARENA_BYTES = 64 << 20


class Host:
    """A run directory, an arena that somebody else holds, and a page server that may be killed and started."""

    def __init__(self, run: Path, more: str = "") -> None:
        self.run = run
        self.fd = create_memfd("headrace-arena", ARENA_BYTES, "off")
        self.config = run / "headrace.toml"
        self.config.write_text(f'[kv]\narena = "64MiB"\nslab = "1MiB"\n{more}')
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", "kv@host", "-c", str(self.config)],
            env={**os.environ, "HEADRACE_RUN": str(self.run), "HEADRACE_ARENA_FD": str(self.fd)},
            pass_fds=(self.fd,), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        path = self.run / "kv@host.pages.sock"
        eventually(lambda: _answers(path))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def reboot(self) -> None:
        """Whatever is not on disk is lost."""
        self.kill()
        os.close(self.fd)
        self.fd = create_memfd("headrace-arena", ARENA_BYTES, "off")
        self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(timeout=10) == 0
        os.close(self.fd)

    def all_stats(self) -> Stats:
        client, _ = attach_blocking(Visitor("cli", PollLoop(), self.run), "observer")
        stats = call(client, StatsQuery(9), Stats)
        client.close()
        return stats

    def stats(self) -> PoolStats:
        return self.all_stats().pools[0]

    def held(self) -> int:
        return held(self.all_stats())


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(PacketClient[FromKv](path, FromKv)):
        return True
    return False


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Named(Visitor):
    """A visitor with the name of a scheduler or a worker."""

    def __init__(self, name: str, run: Path, epoch: int = 1) -> None:
        super().__init__("cli", PollLoop(), run)
        self.name, self.epoch = name, epoch


class Client:
    """A scheduler and its worker in one, blocking."""

    def __init__(self, host: Host, epoch: int = 1, name: str = "scheduler@m") -> None:
        self.client, arena = attach_blocking(Named(name, host.run, epoch), "scheduler")
        assert arena is not None
        self.arena: ArenaMap = arena
        self.rid = 1
        self.pool = call(self.client, OpenPool(self.next(), ROOT, SHAPE), PoolOpened)
        self.grid = self.arena.page_grid(self.pool, SHAPE.page_bytes)

    def next(self) -> int:
        self.rid += 1
        return self.rid

    def write_and_seal(self, tokens: list[int], fill: int) -> list[int]:
        """Blocks of 16 tokens; page i is filled with the byte `fill + i`."""
        digests = chain(ROOT, pack_u32(tokens), 16)
        count = len(digests) // 16
        leased = call(self.client, Lease(self.next(), self.pool.pool, count), Leased)
        pages = unpack_u32(leased.pages)
        for index, page in enumerate(pages):
            self.grid[page] = (fill + index) % 256
        self.arena.commit(self.pool, pages, unpack_u32(leased.generations), np.full(count, 16, np.uint32), 0)
        sealed = call(
            self.client,
            Seal(self.next(), self.pool.pool, leased.pages, leased.generations, digests, (ROOT + digests)[:-16]),
            Sealed,
        )  # fmt: skip
        assert set(unpack_u32(sealed.codes).tolist()) == {0}
        return [int(page) for page in pages]

    def found(self, tokens: list[int]) -> list[int]:
        """First byte of each page that is found for these tokens; the pins are given back."""
        found = call(self.client, Lookup(self.next(), self.pool.pool, chain(ROOT, pack_u32(tokens), 16)), Found)
        values = [int(self.grid[page, 0]) for page in unpack_u32(found.pages)]
        call(self.client, Release(self.next(), self.pool.pool, found.pages, found.generations), Done)
        return values
