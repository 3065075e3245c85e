"""Where things are in the arena. Numbers and numpy views only.

    superblock 4 KiB │ writers │ slab table │ pool table │ header table │ data, 2 MiB aligned: slabs

The data region is cut into slabs; a slab belongs to one pool at a time, or to none. A page is a *cell* of its pool's
own grid over the whole data region (cell p is at `p * stride`), usable where it lies inside a slab of that pool. So
every pool can be viewed as one tensor `[cells, ...page]`, whatever slabs it has.

Headers stand apart from the pages: an index is rebuilt from them without touching page memory. A header has four cache
lines with one writer each: kv writes lines 0, 1 and 3; workers write line 2.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

VERSION: Final = 3  # of everything below: an arena of another one is not read, by nobody
MAGIC: Final = b"HRARENA" + bytes([VERSION])
FREE, LEASED, SEALED = 0, 1, 2
NO_POOL, LOST = 0, 0xFFFFFFFF  # slab table: free for all; and out of use, because nobody can say whose it is

MAX_POOLS: Final = 64
MAX_WRITERS: Final = 512
MAX_RANKS: Final = 8
MIN_STRIDE: Final = 4096
HEADERS_PER_SLAB_MAX: Final = 1024
WRITERS_OFFSET: Final = 4096  # in every version: who opens an arena must see its writers before reading on
_ALIGN: Final = 2 << 20

HEADER: Final = np.dtype(
    [
        # line 0, kv
        ("state", "<u1"), ("_pad0", "<u1"), ("pool", "<u2"), ("generation", "<u4"),
        ("owner", "<u8"), ("owner_epoch", "<u8"), ("crc", "<u4"), ("_pad1", "V36"),
        # line 1, kv
        ("digest", "V16"), ("parent", "V16"), ("_pad2", "V32"),
        # line 2, workers: generation << 32 | valid tokens, one per rank
        ("commit", "<u8", (MAX_RANKS,)),
        # line 3, spare
        ("_pad3", "V64"),
    ]
)  # fmt: skip
assert HEADER.itemsize == 256

SUPERBLOCK: Final = np.dtype(
    [
        ("magic", "V8"), ("boot", "V16"), ("arena", "V16"), ("kv_epoch", "<u8"), ("arena_bytes", "<u8"),
        ("slab_bytes", "<u8"), ("slabs", "<u4"), ("header_slots", "<u4"), ("geometry", "V32"),
    ]
)  # fmt: skip

# Processes that may write pages, and those that hold them: see `kv.witness`. `name` and `owner` are hashes; `fenced` is
# what a worker last said in `Fenced`; `pools` are those that a scheduler has opened, a bit each.
WRITER: Final = np.dtype(
    [("state", "<u8"), ("kind", "<u4"), ("pid", "<u4"), ("started", "<u8"), ("name", "<u8"), ("epoch", "<u8"),
     ("owner", "<u8"), ("fenced", "<u8"), ("pools", "<u8")]
)  # fmt: skip
assert WRITER.itemsize == 64

POOL: Final = np.dtype(
    [("used", "<u4"), ("crc", "<u4"), ("layers", "<u4"), ("kv_heads", "<u4"), ("page_tokens", "<u4"),
     ("head_dim", "<u4"), ("dtype", "V12"), ("root", "V16"), ("stride", "<u8")]
)  # fmt: skip


class ArenaTooSmall(ValueError):
    """Not even one slab fits."""


class Layout(NamedTuple):
    """Offsets and sizes, all in bytes unless they count something."""

    arena_bytes: int
    slab_bytes: int
    slabs: int
    header_slots: int
    writers_offset: int
    slab_table_offset: int
    pool_table_offset: int
    header_offset: int
    data_offset: int

    @property
    def data_bytes(self) -> int:
        """Of all slabs."""
        return self.slabs * self.slab_bytes

    @property
    def geometry(self) -> bytes:
        """Digest of everything above: an arena with another one is not ours to read."""
        return hashlib.sha256(repr((tuple(self), HEADER.descr, WRITER.descr, POOL.descr)).encode()).digest()


def plan_layout(arena_bytes: int, slab_bytes: int) -> Layout:
    """Fit as many slabs as go.

    Raises:
        ArenaTooSmall: there is no room for one.
    """
    slots = min(HEADERS_PER_SLAB_MAX, max(16, slab_bytes // (32 << 10)))
    slabs = arena_bytes // slab_bytes
    while slabs > 0:
        writers = WRITERS_OFFSET
        slab_table = writers + MAX_WRITERS * WRITER.itemsize
        pool_table = -(-(slab_table + 4 * slabs) // 64) * 64
        header = -(-(pool_table + MAX_POOLS * POOL.itemsize) // 4096) * 4096
        data = -(-(header + slabs * slots * HEADER.itemsize) // _ALIGN) * _ALIGN
        if data + slabs * slab_bytes <= arena_bytes:
            return Layout(arena_bytes, slab_bytes, slabs, slots, writers, slab_table, pool_table, header, data)
        slabs -= 1
    raise ArenaTooSmall(f"an arena of {arena_bytes >> 20} MiB has no room for a slab of {slab_bytes >> 20} MiB")


class Grid(NamedTuple):
    """How the pages of one stride lie in the data region."""

    stride: int
    slab_bytes: int
    header_slots: int
    cells: int

    def first_cell(self, slab: int) -> int:
        """The first cell that begins inside a slab."""
        return -(-(slab * self.slab_bytes) // self.stride)

    def cells_of(self, slab: int) -> range:
        """The cells that lie wholly inside a slab and have a header."""
        first = self.first_cell(slab)
        end = (slab + 1) * self.slab_bytes // self.stride
        return range(first, min(end, first + self.header_slots))

    def slab_of(self, cell: int) -> int:
        """The slab in which a cell lies."""
        return cell * self.stride // self.slab_bytes

    def header_of(self, cell: int) -> int:
        """Index of a cell's header in the header table."""
        slab = cell * self.stride // self.slab_bytes
        return slab * self.header_slots + (cell - self.first_cell(slab))

    def headers_of(self, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`header_of`, for many: [n] -> [n]."""
        slabs = cells * self.stride // self.slab_bytes
        first = -(-(slabs * self.slab_bytes) // self.stride)
        return slabs * self.header_slots + (cells - first)


def grid_for(layout: Layout, page_bytes: int) -> Grid:
    """The grid of pages of that size, strides rounded up to 4 KiB (direct I/O, registration)."""
    stride = max(MIN_STRIDE, -(-page_bytes // MIN_STRIDE) * MIN_STRIDE)
    return Grid(stride, layout.slab_bytes, layout.header_slots, layout.data_bytes // stride)


def name_hash(name: str) -> int:
    """64 bits that stand for a process's name in the arena."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Tables(NamedTuple):
    """Views of everything but the page bytes. Over the arena, or over plain memory in tests."""

    superblock: npt.NDArray[np.void]
    writers: npt.NDArray[np.void]
    slab_pool: npt.NDArray[np.uint32]
    pools: npt.NDArray[np.void]
    headers: memoryview


def tables(memory: memoryview | bytearray, layout: Layout) -> Tables:
    """Views into the first `data_offset` bytes of an arena."""

    def view(dtype: np.dtype[np.void], offset: int, count: int) -> npt.NDArray[np.void]:
        return np.frombuffer(memory, dtype=dtype, count=count, offset=offset)

    return Tables(
        view(SUPERBLOCK, 0, 1),
        view(WRITER, layout.writers_offset, MAX_WRITERS),
        np.frombuffer(memory, dtype="<u4", count=layout.slabs, offset=layout.slab_table_offset),
        view(POOL, layout.pool_table_offset, MAX_POOLS),
        memoryview(memory)[layout.header_offset :][: layout.slabs * layout.header_slots * HEADER.itemsize],
    )
