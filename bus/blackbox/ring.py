"""Records in a stretch of memory: the newest overwrites the oldest, and any moment may be the writer's last. Pure.

    magic │ length │ check sum │ number │ payload …          each at a multiple of 8

A record is written by one assignment, and is there when its check sum fits. The sum is keyed by a number that only the
file's head tells, so bytes that somebody sent us are never taken for a record. Readers search for magic words and keep
no state, so they need nothing from the writer, not even its position.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final, NamedTuple

import xxhash

_WORD: Final = b"\xd7HR\x1e"
MAGIC: Final = int.from_bytes(_WORD, "little")
_HEAD: Final = struct.Struct("<IIQQ")
HEAD_BYTES: Final = _HEAD.size
_ALIGN: Final = 8
_head = _HEAD.pack

check = xxhash.xxh3_64_intdigest


class Record(NamedTuple):
    """One record. Numbers count from 1, without a gap where nothing was damaged."""

    number: int
    payload: bytes


class Ring:
    """The writing side.

    Args:
        memory: where it lies, from `start` to `end`, multiples of 8. Zero where nothing was written.
        key: of the check sums.
    """

    __slots__ = ("_at", "_end", "_key", "_memory", "_start", "largest", "number")

    def __init__(self, memory: mmap.mmap | bytearray, start: int, end: int, key: int) -> None:
        self._memory, self._start, self._end, self._key = memory, start, end, key
        self._at = start
        self.number = 0
        self.largest = (end - start) // 4 - HEAD_BYTES

    def append(self, payload: bytes) -> None:
        """Write a record; a payload that is longer than `largest` is cut."""
        size = len(payload)
        if size > self.largest:
            payload, size = payload[: self.largest], self.largest
        at = self._at
        end = at + HEAD_BYTES + size
        if end > self._end:
            # What is left of the round before would be older than its neighbours by a round.
            self._memory[at : self._end] = bytes(self._end - at)
            at = self._start
            end = at + HEAD_BYTES + size
        number = self.number = self.number + 1
        self._memory[at:end] = _head(MAGIC, size, check(payload, self._key ^ number), number) + payload
        self._at = end + _ALIGN - 1 & -_ALIGN


def records(memory: bytes, key: int) -> list[Record]:
    """Every whole record in these bytes, in the order in which they were written. Any bytes will do."""
    found: dict[int, Record] = {}
    at = memory.find(_WORD)
    while at >= 0:
        following = at + 1
        if at % _ALIGN == 0 and at + HEAD_BYTES <= len(memory):
            _, size, told, number = _HEAD.unpack_from(memory, at)
            end = at + HEAD_BYTES + size
            payload = memory[at + HEAD_BYTES : end]
            if len(payload) == size and check(payload, key ^ number) == told:
                found[number] = Record(number, payload)
                following = end
        at = memory.find(_WORD, following)
    return [found[number] for number in sorted(found)]
