"""scheduler, worker, supervisor <-> kv, over a Unix SEQPACKET socket.

SEQPACKET and not ZeroMQ because it passes the arena's descriptor, says by its closing that a client is
gone, carries the kernel's credentials, and answers in 17 us against 50.

A page is named by (page, generation), always both; a message about another generation changes nothing.
`page` is a cell number in the pool's own grid: the bytes of page p start at `data_offset + p * stride`.
Every request carries `rid`; its reply repeats it. Replies come in order, but for those to `Prefetch`. Requests are
idempotent on (session, rid).

A lease belongs to an *owner* (a scheduler's name and epoch), not to the connection that carries it: pages leased by
an owner that died are given out again only when every worker attached to that owner has died or said `Fenced`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.steps import KvShape

MAX_PACKET_BYTES = 131_072  # the kernel's default limit is 212,960
MAX_PAGES_PER_MESSAGE = 4_096


class Attach(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """First message of a client.

    Attributes:
        name, epoch: this incarnation. A newer epoch of the same name ends the session of the older one.
        role: "scheduler" leases pages; "worker" writes bytes on behalf of `owner`; "supervisor" may take the
            descriptor and nothing else; "observer" may ask for `Stats`.
        owner: for a worker, name of the scheduler whose leases it writes; else empty.
        protocol_min, protocol_max, build: as in `bus.messages.common.Hello`.
        layout: version of the arena's layout that it can read, see `kv.layout`.
    """

    rid: int
    name: str
    epoch: int
    role: Literal["scheduler", "worker", "supervisor", "observer"]
    owner: str = ""
    protocol_min: int = 1
    protocol_max: int = 1
    build: str = ""
    layout: int = 3


class Attached(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=51):
    """Answer to `Attach`; for scheduler, worker and supervisor the arena's descriptor rides along (SCM_RIGHTS)."""

    rid: int
    kv_epoch: int
    arena_bytes: int
    header_offset: int
    data_offset: int
    protocol: int = 1
    layout: int = 3


class OpenPool(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Give me the pool of this shape; made when it does not exist. `root` tells models of equal shape apart."""

    rid: int
    root: bytes
    shape: KvShape


class PoolOpened(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=52):
    """The pool and its geometry.

    Attributes:
        stride: bytes from one page to the next (page bytes rounded up).
        cells: size of the grid; page numbers are below it. Not every cell belongs to the pool at any time.
        capacity: pages the pool could have if it were alone.
        slab_bytes, header_slots: page p lies in slab `p * stride // slab_bytes`; its header is entry
            `slab * header_slots + (p - first cell of that slab)` of the header table, 256 bytes each.
    """

    rid: int
    pool: int
    stride: int
    cells: int
    capacity: int
    slab_bytes: int
    header_slots: int


class Lease(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """Give me `count` writable pages, evicting cached ones where needed. Answered by `Leased` with as many as there
    are, possibly none: never waits, never an error."""

    rid: int
    pool: int
    count: int


class Leased(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=53):
    """Pages (packed u32) and their generations (packed u32), writable by the owner's workers."""

    rid: int
    pages: bytes
    generations: bytes
    evicted: bytes = b""  # digests that left the index for it, 16 bytes each


class Seal(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """These leased pages are full and final; index them. The sealer keeps a pin on each.

    `digests` and `parents` are 16 bytes a page; the parent of a first block is the salted root.
    """

    rid: int
    pool: int
    pages: bytes
    generations: bytes
    digests: bytes
    parents: bytes


class Sealed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=54):
    """Per page of the `Seal`, packed u32 code: 0 sealed; 1 duplicate, `pages` and `generations` name the page that
    holds this content (pinned for you; yours stays leased); 2 stale, the handle was not yours."""

    rid: int
    codes: bytes
    pages: bytes
    generations: bytes


class Lookup(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """Find the longest indexed prefix of this chain and pin it."""

    rid: int
    pool: int
    digests: bytes


class Found(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=55):
    """The pages of the prefix, pinned for the asker, in order; shorter than the chain where it ends.

    Attributes:
        ahead: blocks behind them that a `Prefetch` would bring from disk.
        ahead_us: in how many microseconds, as far as one can tell.
    """

    rid: int
    pages: bytes
    generations: bytes
    ahead: int = 0
    ahead_us: int = 0


class Release(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=6):
    """Give pages back: a pin on a sealed page, or a lease on a page that holds nothing of value. Stale handles
    change nothing. Answered by `Done`."""

    rid: int
    pool: int
    pages: bytes
    generations: bytes


class Reassert(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=7):
    """After kv restarted: these pages are still mine. Before settling, kv evicts nothing. Answered by `Reasserted`.

    `pins` are sealed pages (one entry per page; the count of pins is the owner's business), `leases` writable ones.
    """

    rid: int
    pool: int
    pins: bytes
    pin_generations: bytes
    leases: bytes
    lease_generations: bytes
    final: bool = True  # the last message of this pool's list


class Reasserted(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=57):
    """Pages that are lost to the asker: their handle is not valid any more (packed u32)."""

    rid: int
    lost: bytes


class Fenced(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=8):
    """worker -> kv: I will not write again for leases of `owner` in epochs below `epoch`. Answered by `Done`."""

    rid: int
    owner: str
    epoch: int


class Clear(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=9):
    """Drop every cached page of the pool (0: of all pools), and all that is on disk. Answered by `Done`."""

    rid: int
    pool: int = 0


class Prefetch(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """Bring this chain into memory, as far as it is on disk, and pin it. Answered by `Found` when it is there, or after
    `wait_ms` with as much of it as is: replies to later requests may come before. What comes later is cached."""

    rid: int
    pool: int
    digests: bytes
    wait_ms: int


class StatsQuery(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """How are the pages? Answered by `Stats`."""

    rid: int


class PoolStats(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Pages of one pool by state. `total` is their sum."""

    pool: int
    root: bytes
    total: int
    free: int
    leased: int
    pinned: int
    cached: int
    quarantined: int
    filling: int = 0  # being read from disk


class Stats(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=60):
    """The arena. Counters count since this incarnation started."""

    rid: int
    kv_epoch: int
    arena_bytes: int
    slabs: int
    slabs_free: int
    pools: tuple[PoolStats, ...]
    leases_total: int
    seals_total: int
    lookups_total: int
    hits_total: int  # pages found
    misses_total: int  # pages asked for and not found
    evictions_total: int
    disk_pages: int = 0
    disk_writes_total: int = 0  # pages
    disk_reads_total: int = 0  # pages, verified
    disk_lost_total: int = 0  # pages evicted before they were on disk


class Done(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=61):
    """Nothing to say but that it is done."""

    rid: int


class Denied(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=62):
    """The request was refused; nothing changed."""

    rid: int
    reason: Literal["attach_first", "stale", "forbidden", "no_pool", "too_large", "malformed", "shape", "protocol"]
    detail: str


ToKv = Attach | OpenPool | Lease | Seal | Lookup | Release | Reassert | Fenced | Clear | StatsQuery | Prefetch
FromKv = Attached | PoolOpened | Leased | Sealed | Found | Reasserted | Stats | Done | Denied
