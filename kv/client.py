"""The arena as its users see it: the only module of kv that other folders import. Neither torch nor decisions here.

`ArenaMap` is the mapping: page bytes and commit words. `attach_blocking` is for workers and tools; `PageClient` is for
the scheduler: every method answers by a callback on the loop, and none waits. `capacity` counts the pages of an arena
that is not there yet.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from bus.build import BUILD
from bus.identity import Identity
from bus.memfd import exclude_from_core_dumps
from bus.messages.pages import (
    MAX_PAGES_PER_MESSAGE,
    Attach,
    Attached,
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
    Prefetch,
    Reassert,
    Reasserted,
    Release,
    Seal,
    Sealed,
    Stats,
    StatsQuery,
)  # fmt: skip
from bus.messages.steps import KvShape
from bus.names import KV, PAGES_DOOR, socket_path
from bus.packed import pack_u32
from bus.seqpacket import PacketClient, connect_when_there
from bus.wire import PROTOCOLS
from kv.capacity import capacity as capacity
from kv.layout import HEADER, MAX_RANKS, VERSION, Grid

log = logging.getLogger(__name__)

Reply = TypeVar("Reply", bound=msgspec.Struct)
Role = Literal["scheduler", "worker", "supervisor", "observer"]

LAYOUT_VERSION: Final = VERSION
_SEALS_PER_MESSAGE: Final = 2048  # 40 bytes a page
_REFUSED_S: Final = 1.0
Handles = npt.NDArray[np.uint32]


class PagesDenied(RuntimeError):
    """kv refused. `reason` is of the closed set in `bus.messages.pages.Denied`."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(f"{denied.reason}: {denied.detail}")
        self.reason = denied.reason


class ArenaMap:
    """The arena, mapped. Stays valid when kv dies; never unmapped in a living process.

    Args:
        fd: the arena's descriptor; closed here, the mapping keeps the memory.
    """

    def __init__(self, fd: int, attached: Attached) -> None:
        self.memory = mmap.mmap(fd, attached.arena_bytes)
        os.close(fd)
        self._data_offset, self._header_offset = attached.data_offset, attached.header_offset
        self._bytes = np.frombuffer(self.memory, dtype=np.uint8)
        exclude_from_core_dumps(self._bytes.ctypes.data, attached.arena_bytes)

    def page_grid(self, pool: PoolOpened, page_bytes: int) -> npt.NDArray[np.uint8]:
        """All cells of the pool's grid: uint8 [cells, page_bytes], rows `pool.stride` bytes apart, no copy."""
        data = self._bytes[self._data_offset :]
        return np.lib.stride_tricks.as_strided(data, (pool.cells, page_bytes), (pool.stride, 1))

    def commit(self, pool: PoolOpened, pages: Handles, generations: Handles, valid_tokens: Handles, rank: int) -> None:
        """Say, in the pages' headers, how many of their tokens this rank has written. After the bytes, never before.

        Args:
            pages, generations, valid_tokens: uint32 [n]; pages this rank's scheduler has leased.
            rank: tensor-parallel rank, below 8.
        """
        grid = Grid(pool.stride, pool.slab_bytes, pool.header_slots, pool.cells)
        at = grid.headers_of(pages.astype(np.int64))
        words = self._commit_words(rank)
        words[at] = generations.astype(np.uint64) << np.uint64(32) | valid_tokens.astype(np.uint64)

    def committed(self, pool: PoolOpened, pages: Handles, rank: int) -> tuple[Handles, Handles]:
        """(generation, valid tokens) as last committed by a rank, each uint32 [n]."""
        grid = Grid(pool.stride, pool.slab_bytes, pool.header_slots, pool.cells)
        words = self._commit_words(rank)[grid.headers_of(pages.astype(np.int64))]
        return (words >> np.uint64(32)).astype(np.uint32), (words & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    def _commit_words(self, rank: int) -> npt.NDArray[np.uint64]:
        if not 0 <= rank < MAX_RANKS:
            raise ValueError(f"rank {rank}: the header has commit words for {MAX_RANKS} ranks")
        headers = np.frombuffer(
            self.memory, dtype=HEADER, offset=self._header_offset,
            count=(self._data_offset - self._header_offset) // HEADER.itemsize,
        )  # fmt: skip
        words: npt.NDArray[np.uint64] = headers["commit"][:, rank]
        return words


def attach_blocking(life: Identity, role: Role, owner: str = "") -> tuple[PacketClient[FromKv], ArenaMap | None]:
    """Attach and wait for the answer.

    Returns:
        The connection, and the mapped arena (None for observers).

    Raises:
        OSError: kv is not there, or does not answer.
        PagesDenied: it refuses.
    """
    client: PacketClient[FromKv] = PacketClient(socket_path(KV, PAGES_DOOR, life.run), FromKv, life.recorder)
    attached = client.call(_attach(1, life, role, owner))
    if isinstance(attached, Denied):
        client.close()
        raise PagesDenied(attached)
    assert isinstance(attached, Attached)
    return client, ArenaMap(client.fds[0], attached) if client.fds else None


def layout_of_arena(life: Identity) -> int:
    """Version of the running arena's layout; `LAYOUT_VERSION` is the one that this release can read.

    Raises:
        PagesDenied, OSError: see `attach_blocking`.
    """
    client: PacketClient[FromKv] = PacketClient(socket_path(KV, PAGES_DOOR, life.run), FromKv)
    try:
        return call(client, _attach(1, life, "observer", ""), Attached).layout
    finally:
        client.close()


def call(client: PacketClient[FromKv], message: msgspec.Struct, expected: type[Reply]) -> Reply:
    """Ask and wait for a reply of that type.

    Raises:
        PagesDenied, OSError: see `attach_blocking`.
    """
    answer = client.call(message)
    if isinstance(answer, Denied):
        raise PagesDenied(answer)
    assert isinstance(answer, expected), f"{type(answer).__name__} instead of {expected.__name__}"
    return answer


def held(stats: Stats) -> int:
    """Pages that somebody holds or may still write. When all clients are gone and their processes dead, it is 0: what
    is not free is cached."""
    return sum(pool.leased + pool.pinned + pool.quarantined for pool in stats.pools)


class PageClient:
    """kv as the scheduler sees it, or a worker after its start: asynchronous, and it reconnects by itself.

    A method returns False where kv is not there; the callback is then never called. Callbacks of questions that were
    open when kv died are not called either: `on_down` says so, and after `on_up` the user says again what it holds
    (`reassert`). As long as kv lives every callback is called: kv failing to help is a miss, not an error, so a refusal
    reads as nothing leased, nothing found, nothing sealed, and is logged and counted.

    Arguments of any length are cut into messages that kv takes.

    Args:
        role, owner: see `bus.messages.pages.Attach`.
        on_up: attached, to an incarnation of kv that knows nothing of what we hold.
        on_refused: kv does not take us, or has no pool of the shape. Attaching is tried again, but for "stale": a newer
            incarnation of us lives.
    """

    def __init__(
        self,
        life: Identity,
        role: Role,
        *,
        owner: str = "",
        on_up: Callable[[], None],
        on_down: Callable[[], None] = lambda: None,
        on_refused: Callable[[Denied], None] = lambda _: None,
    ) -> None:
        self._life, self._role, self._owner = life, role, owner
        self._on_up, self._on_down, self._on_refused = on_up, on_down, on_refused
        self._rid = 0
        self._client: PacketClient[FromKv] | None = None
        self._closed = False
        self.up = False
        self.denied = life.telemetry.counter("headrace_kv_denied_total", "Requests that kv refused")
        self._cancel = self._connect()

    def open_pool(self, root: bytes, shape: KvShape, on_reply: Callable[[PoolOpened], None]) -> bool:
        """The pool of that shape. Where there can be none, `on_refused` is called instead."""
        return self._ask(OpenPool(self._next(), root, shape), PoolOpened, on_reply, self._on_refused)

    def lease(self, pool: int, count: int, on_reply: Callable[[Leased], None]) -> bool:
        """Up to `count` writable pages, at most `MAX_PAGES_PER_MESSAGE`."""
        message = Lease(self._next(), pool, count)
        return self._ask(message, Leased, on_reply, lambda denied: on_reply(Leased(denied.rid, b"", b"")))

    def seal(
        self, pool: int, pages: bytes, generations: bytes, digests: bytes, parents: bytes,
        on_reply: Callable[[Sealed], None],
    ) -> bool:  # fmt: skip
        """Index full pages."""
        count = len(pages) // 4
        parts: list[Sealed] = []

        def answered(part: Sealed) -> None:
            parts.append(part)
            if len(parts) == len(_cuts(count, _SEALS_PER_MESSAGE)):
                on_reply(_joined(parts))

        return all(
            self._seal(
                pool, pages[4 * at : 4 * to], generations[4 * at : 4 * to], digests[16 * at : 16 * to],
                parents[16 * at : 16 * to], answered,
            )
            for at, to in _cuts(count, _SEALS_PER_MESSAGE)
        )  # fmt: skip

    def _seal(
        self, pool: int, pages: bytes, generations: bytes, digests: bytes, parents: bytes,
        on_reply: Callable[[Sealed], None],
    ) -> bool:  # fmt: skip
        stale = pack_u32([2] * (len(pages) // 4))
        message = Seal(self._next(), pool, pages, generations, digests, parents)
        return self._ask(
            message, Sealed, on_reply, lambda denied: on_reply(Sealed(denied.rid, stale, pages, generations))
        )

    def lookup(self, pool: int, digests: bytes, on_reply: Callable[[Found], None]) -> bool:
        """Find and pin the longest indexed prefix."""
        wanted = digests[: 16 * MAX_PAGES_PER_MESSAGE]

        def answered(found: Found) -> None:
            rest = digests[len(wanted) :]
            # Where all of it was found, the prefix may go on. kv may die in between: then nothing answers, as ever.
            if rest and len(found.pages) * 4 == len(wanted):
                self.lookup(pool, rest, lambda more: on_reply(_longer(found, more)))
            else:
                on_reply(found)

        message = Lookup(self._next(), pool, wanted)
        return self._ask(message, Found, answered, lambda denied: on_reply(Found(denied.rid, b"", b"")))

    def prefetch(self, pool: int, digests: bytes, wait_ms: int, on_reply: Callable[[Found], None]) -> bool:
        """Bring a chain into memory from disk and pin it: what is there when `wait_ms` have passed, or before."""
        message = Prefetch(self._next(), pool, digests[: 16 * MAX_PAGES_PER_MESSAGE], wait_ms)
        return self._ask(message, Found, on_reply, lambda denied: on_reply(Found(denied.rid, b"", b"")))

    def release(self, pool: int, pages: bytes, generations: bytes) -> bool:
        """Give back pins and leases."""
        return all(
            self._ask(
                Release(self._next(), pool, pages[4 * at : 4 * to], generations[4 * at : 4 * to]), Done, lambda _: None
            )
            # From the end: children before parents, as kv itself does within a message.
            for at, to in reversed(_cuts(len(pages) // 4, MAX_PAGES_PER_MESSAGE))
        )

    def reassert(
        self, pool: int, pins: bytes, pin_generations: bytes, leases: bytes, lease_generations: bytes,
        on_reply: Callable[[Reasserted], None], *, final: bool = True,
    ) -> bool:  # fmt: skip
        """After `on_up`: what we still hold of a pool; `final` with the last of it."""
        no = (b"", b"")
        messages = [
            (*no, leases[4 * at : 4 * to], lease_generations[4 * at : 4 * to])
            for at, to in _cuts(len(leases) // 4, MAX_PAGES_PER_MESSAGE)
        ] + [
            (pins[4 * at : 4 * to], pin_generations[4 * at : 4 * to], *no)
            for at, to in _cuts(len(pins) // 4, MAX_PAGES_PER_MESSAGE)
        ]
        lost: list[bytes] = []

        def answered(part: Reasserted) -> None:
            lost.append(part.lost)
            if len(lost) == len(messages):
                on_reply(Reasserted(part.rid, b"".join(lost)))

        def say(at: int) -> bool:
            mine = messages[at]
            message = Reassert(self._next(), pool, *mine, final and at == len(messages) - 1)
            return self._ask(
                message, Reasserted, answered, lambda denied: answered(Reasserted(denied.rid, mine[0] + mine[2]))
            )

        return all(say(at) for at in range(len(messages)))

    def fenced(self, owner: str, epoch: int) -> bool:
        """A worker's word that it does not write any more for older epochs of its scheduler."""
        return self._ask(Fenced(self._next(), owner, epoch), Done, lambda _: None)

    def stats(self, on_reply: Callable[[Stats], None]) -> bool:
        """Pages by state."""
        return self._ask(StatsQuery(self._next()), Stats, on_reply)

    def close(self) -> None:
        """Hang up, for good."""
        self._closed = True
        self.up = False
        self._cancel()
        if self._client is not None:
            self._client.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._rid += 1
        return self._rid

    def _ask(
        self,
        message: msgspec.Struct,
        expected: type[Reply],
        on_reply: Callable[[Reply], None],
        on_denied: Callable[[Denied], None] = lambda _: None,
    ) -> bool:
        if not self.up or self._client is None:
            return False

        def answered(answer: Any) -> None:
            if isinstance(answer, expected):
                on_reply(answer)
                return
            self.denied.add()
            log.error("kv answers %s to %s", answer, type(message).__name__)
            if isinstance(answer, Denied):
                on_denied(answer)

        return self._client.ask(message, answered)

    def _connect(self) -> Callable[[], None]:
        path = socket_path(KV, PAGES_DOOR, self._life.run)
        return connect_when_there(self._life.loop, path, FromKv, self._connected, recorder=self._life.recorder)

    def _connected(self, client: PacketClient[FromKv]) -> None:
        if self._closed:
            client.close()
            return
        self._client = client
        client.attach(self._life.loop, self._hung_up)
        client.ask(_attach(self._next(), self._life, self._role, self._owner), self._attached)

    def _attached(self, answer: FromKv) -> None:
        if isinstance(answer, Attached):
            self.up = True
            self._life.troubles.over(KV)
            self._on_up()
            return
        why = f"{answer.reason}: {answer.detail}" if isinstance(answer, Denied) else f"{answer}"
        if self._life.troubles.say(KV, f"{KV} refuses us: {why}", self._life.loop.now_ns()):
            log.error("%s refuses us: %s", KV, why)  # once, not each time
        if self._client is not None:
            self._client.close()
            self._client = None
        if isinstance(answer, Denied):
            if answer.reason != "stale":
                self._cancel = self._life.loop.after(_REFUSED_S, self._try_again)
            self._on_refused(answer)

    def _try_again(self) -> None:
        if not self._closed:
            self._cancel = self._connect()

    def _hung_up(self) -> None:
        was_up, self.up, self._client = self.up, False, None
        if not self._closed:
            self._cancel = self._connect()
            if was_up:
                self._on_down()


def _attach(rid: int, life: Identity, role: Role, owner: str) -> Attach:
    return Attach(rid, life.name, life.epoch, role, owner, *PROTOCOLS, BUILD, LAYOUT_VERSION)


def _cuts(count: int, at_most: int) -> list[tuple[int, int]]:
    """Ranges that cover `count`; one empty range for none."""
    return [(at, min(at + at_most, count)) for at in range(0, max(count, 1), at_most)]


def _joined(parts: list[Sealed]) -> Sealed:
    return Sealed(
        parts[0].rid,
        b"".join(part.codes for part in parts),
        b"".join(part.pages for part in parts),
        b"".join(part.generations for part in parts),
    )


def _longer(found: Found, more: Found) -> Found:
    pages, generations = found.pages + more.pages, found.generations + more.generations
    return Found(found.rid, pages, generations, more.ahead, more.ahead_us)
