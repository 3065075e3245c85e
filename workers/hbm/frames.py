"""Which page of the arena is in which frame of device memory. Pure.

A frame is free, *held* by the slots whose block tables name its page, or *kept*: nobody's, whole, and in the arena too,
so that it is found again, and may be given up at any time. Numbers of pages are not enough to find one: a scheduler
that hands a page out again says so (`StepPlan.forgets`), and kv makes it another generation.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple


class NoFrames(MemoryError):
    """Slots hold all frames. A smaller step may do."""


class Held(NamedTuple):
    """A page's frame, and whether what is in the page has to be loaded into it."""

    frame: int
    load: bool


@dataclass(slots=True)
class _Entry:
    frame: int
    generation: int
    holders: int
    whole: bool


class Frames:
    """The frames of a pool. Args: count: how many."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._entries: dict[int, _Entry] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # pages, the one that is given up first in front

    @property
    def held(self) -> int:
        """Frames that cannot be given up."""
        return self.count - len(self._free) - len(self._kept)

    @property
    def kept(self) -> int:
        """Frames that hold what may be found again."""
        return len(self._kept)

    def hold(self, page: int, generation: int, *, known: bool) -> Held:
        """A page enters a block table.

        Args:
            known: it is sealed: what is in it is in the arena. Else it is to be written, and nothing is in it.

        Raises:
            NoFrames: there is none.
            ValueError: the page is in another block table as something else.
        """
        entry = self._entries.get(page)
        if entry is not None and known and entry.generation == generation and entry.whole:
            entry.holders += 1
            self._kept.pop(page, None)
            return Held(entry.frame, load=False)
        if entry is not None:
            if entry.holders:
                raise ValueError(f"page {page} is in use, as generation {entry.generation}")
            self._drop(page)
        frame = self._take()
        self._entries[page] = _Entry(frame, generation, 1, whole=known)
        return Held(frame, load=known)

    def again(self, page: int) -> int:
        """One more holds a page that is held; returns its frame."""
        entry = self._entries[page]
        entry.holders += 1
        return entry.frame

    def filled(self, page: int) -> None:
        """What is in a held page will not change any more, and is in the arena."""
        self._entries[page].whole = True

    def release(self, page: int) -> None:
        """It leaves a block table. One that is not whole is forgotten with its last holder."""
        entry = self._entries[page]
        entry.holders -= 1
        if entry.holders:
            return
        if entry.whole:
            self._kept[page] = None
        else:
            self._drop(page)

    def forget(self, page: int) -> None:
        """The page is somebody else's to write; what is kept of it is worth nothing."""
        if page in self._kept:
            self._drop(page)

    def forget_all(self) -> None:
        """Of everything that is kept."""
        for page in list(self._kept):
            self._drop(page)

    def _take(self) -> int:
        if not self._free:
            if not self._kept:
                raise NoFrames(f"all {self.count} pages of device memory are in use")
            self._drop(next(iter(self._kept)))
        return self._free.pop()

    def _drop(self, page: int) -> None:
        self._kept.pop(page, None)
        self._free.append(self._entries.pop(page).frame)
