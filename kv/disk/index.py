"""Which page is where on disk. Pure.

Copies are named by the pool's identity and the block's digest, like pages in the arena. A block may have been written
twice; the newer copy counts. Segments are given up whole, oldest first, so a copy in the older half of a full log is
*old*: it can be read, but a page that is in memory is written again before it is lost with its segment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from kv.disk.record import BLOCK, Entry

_OFFSET_BITS: Final = 32  # in blocks


class Place(NamedTuple):
    """Number of a segment, offset of a record in its file."""

    segment: int
    offset: int


Name = tuple[bytes, bytes]  # (identity of the pool, digest)


class DiskIndex:
    """Copies by name."""

    def __init__(self) -> None:
        self._places: dict[bytes, dict[bytes, int]] = {}  # one number a copy: there may be a million
        self._names: dict[int, list[Name]] = {}  # by segment; names whose newer copy is elsewhere stay
        self._old_below = 0
        self.pages = 0

    def add(self, identity: bytes, digest: bytes, place: Place) -> None:
        """A copy; the newest of its name, or it changes nothing."""
        places = self._places.setdefault(identity, {})
        packed = place.segment << _OFFSET_BITS | place.offset // BLOCK
        known = places.get(digest)
        if known is not None and known >= packed:
            return
        self.pages += known is None
        places[digest] = packed
        self._names.setdefault(place.segment, []).append((identity, digest))

    def add_segment(self, segment: int, entries: Iterable[Entry]) -> None:
        """All copies of a segment."""
        for entry in entries:
            self.add(entry.identity, entry.digest, Place(segment, entry.offset))

    def find(self, identity: bytes, digest: bytes) -> Place | None:
        """Where the copy is."""
        packed = self._places.get(identity, {}).get(digest)
        return None if packed is None else Place(packed >> _OFFSET_BITS, (packed & (1 << _OFFSET_BITS) - 1) * BLOCK)

    def has(self, identity: bytes, digest: bytes) -> bool:
        """Whether there is a copy."""
        return digest in self._places.get(identity, ())

    def will_stay(self, identity: bytes, digest: bytes) -> bool:
        """Whether there is a copy that is not old."""
        packed = self._places.get(identity, {}).get(digest)
        return packed is not None and packed >> _OFFSET_BITS >= self._old_below

    def forget(self, identity: bytes, digest: bytes, segment: int) -> bool:
        """The copy in that segment is no good. False where there is another by now."""
        places = self._places.get(identity, {})
        packed = places.get(digest)
        if packed is None or packed >> _OFFSET_BITS != segment:
            return False
        del places[digest]
        self.pages -= 1
        if not places:
            del self._places[identity]
        return True

    def drop(self, segment: int) -> list[Name]:
        """A segment is gone: the names that have no copy any more."""
        gone = [name for name in self._names.pop(segment, ()) if self.forget(*name, segment)]
        segments = sorted(self._names)
        self._old_below = segments[len(segments) // 2] if segments else 0
        return gone

    def clear(self) -> None:
        """Every segment is gone."""
        self._places.clear()
        self._names.clear()
        self._old_below = self.pages = 0
