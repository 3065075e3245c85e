"""The header table: what kv writes of a page's header, one at a time, and reading all of them at once.

A header carries a check sum over everything that kv wrote into it. One that a kill has torn or in which a bit has
flipped is *suspect*: it reads as nobody's page, and who rebuilds must assume that somebody still writes that page.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kv.layout import HEADER

_LINE: Final = struct.Struct("<BxHIQQ")
_CRC: Final = struct.Struct("<I")
_NO_IDENTITY: Final = bytes(32)


class HeaderFields(NamedTuple):
    """What kv writes of a header. Digest and parent are zero unless the page is sealed."""

    state: int
    pool: int
    generation: int
    owner: int
    owner_epoch: int
    digest: bytes
    parent: bytes


class Scan(NamedTuple):
    """Headers `start .. start+n`, column by column, each [n].

    Attributes:
        valid: written, and the check sum fits.
        suspect: written, and it does not.
        generation: for a suspect header the largest of what the header and the commit words say.
        identity: digest and parent, uint8 [n, 32].
    """

    valid: npt.NDArray[np.bool_]
    suspect: npt.NDArray[np.bool_]
    state: npt.NDArray[np.uint8]
    pool: npt.NDArray[np.uint16]
    generation: npt.NDArray[np.uint32]
    owner: npt.NDArray[np.uint64]
    owner_epoch: npt.NDArray[np.uint64]
    identity: npt.NDArray[np.uint8]

    def first(self, count: int) -> Scan:
        """The first `count` of them."""
        return Scan(
            self.valid[:count], self.suspect[:count], self.state[:count], self.pool[:count], self.generation[:count],
            self.owner[:count], self.owner_epoch[:count], self.identity[:count],
        )  # fmt: skip


class Headers:
    """The lines of the header table that kv writes.

    Args:
        memory: the header table's bytes.
    """

    def __init__(self, memory: memoryview | bytearray) -> None:
        self._memory = memoryview(memory)

    def write(
        self, at: int, state: int, pool: int, generation: int,
        owner: int = 0, owner_epoch: int = 0, identity: bytes = _NO_IDENTITY,
    ) -> None:  # fmt: skip
        """Write header number `at`; `identity` is digest and parent."""
        memory, base = self._memory, at * HEADER.itemsize
        line = _LINE.pack(state, pool, generation, owner, owner_epoch)
        # The sum comes last: until then it does not fit. Whole slices are stored, never field by field, so that a kill
        # leaves each aligned word old or new, and a torn generation cannot be one that never was.
        memory[base + 64 : base + 96] = identity
        memory[base : base + 24] = line
        memory[base + 24 : base + 28] = _CRC.pack(zlib.crc32(identity, zlib.crc32(line)))

    def read(self, at: int) -> HeaderFields | None:
        """Read header number `at`; None where it was never written or the check sum does not fit."""
        base = at * HEADER.itemsize
        line, identity = self._memory[base : base + 24], bytes(self._memory[base + 64 : base + 96])
        if _CRC.unpack_from(self._memory, base + 24)[0] != zlib.crc32(identity, zlib.crc32(line)):
            return None
        state, pool, generation, owner, owner_epoch = _LINE.unpack(line)
        return HeaderFields(state, pool, generation, owner, owner_epoch, identity[:16], identity[16:])

    def generation(self, at: int) -> int:
        """The generation field alone."""
        base = at * HEADER.itemsize + 4
        return int.from_bytes(self._memory[base : base + 4], "little")

    def scan(self, start: int, count: int) -> Scan:
        """Read `count` headers from number `start`: 100,000 in a few hundredths of a second."""
        data = self._memory[start * HEADER.itemsize : (start + count) * HEADER.itemsize]
        table = np.frombuffer(data, dtype=HEADER)
        raw = np.frombuffer(data, dtype=np.uint8).reshape(count, HEADER.itemsize)
        written = np.flatnonzero((table["crc"] != 0) | raw[:, :8].any(axis=1))
        covered = np.hstack((raw[written, 0:24], raw[written, 64:96]))
        fits = _crc32(covered) == table["crc"][written]
        valid, suspect = np.zeros(count, bool), np.zeros(count, bool)
        valid[written[fits]] = True
        suspect[written[~fits]] = True
        generation = table["generation"].copy()
        torn = np.flatnonzero(suspect)
        committed = (table["commit"][torn] >> np.uint64(32)).max(axis=1, initial=0).astype(np.uint32)
        generation[torn] = np.maximum(generation[torn], committed)
        return Scan(
            valid, suspect, table["state"].copy(), table["pool"].copy(), generation,
            table["owner"].copy(), table["owner_epoch"].copy(), raw[:, 64:96].copy(),
        )  # fmt: skip


def _crc_table() -> npt.NDArray[np.uint32]:
    entries = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        entries = np.where(entries & 1, entries >> 1 ^ np.uint32(0xEDB88320), entries >> 1)
    return entries


_TABLE: Final = _crc_table()


def _crc32(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """zlib.crc32 of each row: uint8 [n, m] -> uint32 [n]."""
    crc = np.full(len(rows), 0xFFFFFFFF, dtype=np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ crc >> np.uint32(8)
    return ~crc
