"""How pages lie in a segment file: bytes only, no I/O.

    record │ record │ … │ list of the records │ trailer        all begin at multiples of 4 KiB (direct I/O)
    └ header (4 KiB), page

A segment without a trailer was being written when its writer died; its records are found one behind the other. Nothing
that is read is believed: header, list and trailer carry a CRC, the page a sum over its bytes. A file may end or be
damaged at any byte; what is taken for a record was written whole, or its sum does not fit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import xxhash

BLOCK: Final = 4096
_HEADER_MAGIC: Final = b"HRPAGE\x00\x01"  # the last byte is the version, of the trailer too
_TRAILER_MAGIC: Final = b"HRLIST\x00\x01"
_HEADER: Final = struct.Struct("<8s16s16s16sQQ")
_TRAILER: Final = struct.Struct("<8sQQI")
_CRC: Final = struct.Struct("<I")
_ENTRY: Final = np.dtype([("identity", "V16"), ("digest", "V16"), ("offset", "<u8"), ("size", "<u8")])


class Header(NamedTuple):
    """What a record says of its page.

    Attributes:
        identity: of the pool: root and shape, so that a page is never taken for one of another model or layout.
        size: bytes of the page, a multiple of 4 KiB.
        page_sum: XXH3-64 of them.
    """

    identity: bytes
    digest: bytes
    parent: bytes
    size: int
    page_sum: int


class Entry(NamedTuple):
    """Where a segment has a page."""

    identity: bytes
    digest: bytes
    offset: int
    size: int


def sum_of(page: bytes | memoryview) -> int:
    """What `Header.page_sum` is of a page."""
    return xxhash.xxh3_64_intdigest(page)


def record_size(page_bytes: int) -> int:
    """Bytes of a record in the file."""
    return BLOCK + page_bytes


def pack_header(header: Header) -> bytes:
    """The block before a page."""
    return _sealed(_HEADER.pack(_HEADER_MAGIC, *header))


def parse_header(block: bytes | memoryview) -> Header | None:
    """None where it is no header."""
    fields = _opened(block, _HEADER, _HEADER_MAGIC)
    if fields is None:
        return None
    header = Header(*fields)
    return header if header.size and header.size % BLOCK == 0 else None


def tail_size(records: int) -> int:
    """Bytes of list and trailer for so many records."""
    return -(-records * _ENTRY.itemsize // BLOCK) * BLOCK + BLOCK


def pack_tail(entries: Sequence[Entry], offset: int) -> bytes:
    """List and trailer of a segment whose records end at `offset`."""
    table = np.array(list(entries), dtype=_ENTRY).tobytes()
    padded = table.ljust(tail_size(len(entries)) - BLOCK, b"\0")
    return padded + _sealed(_TRAILER.pack(_TRAILER_MAGIC, len(entries), offset, zlib.crc32(table)))


def read_entries(read: Callable[[int, int], bytes], size: int) -> tuple[list[Entry], bool]:
    """The records of a segment.

    Args:
        read: (offset, bytes) to what the file has there, less at its end.
        size: of the file.

    Returns:
        The entries, and whether the segment was closed; where it was not, records end after the last entry.
    """
    closed = _read_tail(read, size)
    return (closed, True) if closed is not None else (_scan(read, size), False)


def end_of(entries: Sequence[Entry]) -> int:
    """Where the records end in a file of these."""
    return entries[-1].offset + record_size(entries[-1].size) if entries else 0


def _read_tail(read: Callable[[int, int], bytes], size: int) -> list[Entry] | None:
    if size < BLOCK:
        return None
    fields = _opened(read(size - BLOCK, BLOCK), _TRAILER, _TRAILER_MAGIC)
    if fields is None:
        return None
    count, offset, crc = fields
    if offset + tail_size(count) != size:
        return None
    table = read(offset, count * _ENTRY.itemsize)
    if zlib.crc32(table) != crc or len(table) != count * _ENTRY.itemsize:
        return None
    columns = np.frombuffer(table, dtype=_ENTRY)
    return [Entry(row[0].tobytes(), row[1].tobytes(), int(row[2]), int(row[3])) for row in columns]


def _scan(read: Callable[[int, int], bytes], size: int) -> list[Entry]:
    entries: list[Entry] = []
    offset = 0
    while (header := parse_header(read(offset, BLOCK))) is not None:
        if offset + record_size(header.size) > size:
            break
        entries.append(Entry(header.identity, header.digest, offset, header.size))
        offset = end_of(entries)
    return entries


def _sealed(fields: bytes) -> bytes:
    return (fields + _CRC.pack(zlib.crc32(fields))).ljust(BLOCK, b"\0")


def _opened(block: bytes | memoryview, layout: struct.Struct, magic: bytes) -> tuple[Any, ...] | None:
    """The fields behind the magic; None where the block is cut, of something else, or damaged."""
    if len(block) < BLOCK or bytes(block[:8]) != magic:
        return None
    if _CRC.unpack_from(block, layout.size)[0] != zlib.crc32(block[: layout.size]):
        return None
    return layout.unpack_from(block)[1:]
