"""Pages that kv has leased to this scheduler and that belong to no request yet; and when to ask for more.

Not here: who holds a page (`ledger`), what is in it (`prefix`). Every page that is ours has its generation here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bus.packed import pack_u32, unpack_u32
from scheduler.core.events import Action, LeasePages, ReleasePages

RETRY_NS: Final = 100_000_000  # kv had nothing: ask again after this, or when something was given back
CEILING_NS: Final = 1_000_000_000  # how long we believe that there is no more than kv had
MAX_HANDLES: Final = 3_000  # pages per message: a Seal of so many fits a packet (bus.messages.pages)


class PagePool:
    """The free list, its watermarks, and what goes back to kv.

    Attributes:
        generation: of every page that is leased to us or pinned by us.
        reasserting: kv is back and has not said yet which of our pages are lost.
        coming: pages that become free when steps in flight complete or a replica is fenced.
        version: changes whenever pages became available, for those who wait for that.
    """

    def __init__(self, extent: int = 64) -> None:
        self._wanted_extent = extent
        self._extent = extent
        self._free: list[int] = []
        self._giving: list[int] = []
        self._lease = 0
        self._asked = 0
        self._dry_since = 0
        self._ceiling = self._ceiling_since = 0
        self.generation: dict[int, int] = {}
        self.capacity = 0
        self.up = self.asking = self.reasserting = False
        self.coming = 0
        self.version = 0

    @property
    def free(self) -> int:
        """Pages to hand out."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Pages that are ours and not free."""
        return len(self.generation) - len(self._free)

    @property
    def reachable(self) -> int:
        """Pages that could be in use at once, as far as we know: all, unless kv has none or had none a moment ago."""
        if self._dry_since or not self.up:
            return len(self.generation)
        return min(self._ceiling or self.capacity, self.capacity)

    @property
    def exhausted(self) -> bool:
        """Neither kv nor a step in flight is about to give us pages."""
        return not self.asking and not self.coming and not self._giving and (self._dry_since > 0 or not self.up)

    def free_pages(self) -> list[int]:
        """The free list, for `ReassertPages` and for checks."""
        return list(self._free)

    def open(self, capacity: int) -> None:
        """kv answers."""
        self.capacity = capacity
        self._extent = max(1, min(self._wanted_extent, capacity // 8))
        self._ceiling = self._dry_since = 0
        self.asking = self.reasserting = False
        self.up = True

    def close(self) -> None:
        """kv is gone. Its answers with it."""
        self.up = self.asking = self.reasserting = False
        # What we meant to give back it learns from our next list of what is ours.
        for page in self._giving:
            self.generation.pop(page, None)
        self._giving.clear()

    def take(self, count: int) -> list[int]:
        """Up to `count` free pages."""
        count = min(count, len(self._free))
        if count == 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def give(self, pages: Iterable[int]) -> None:
        """Pages that nobody holds and that hold nothing of value: free again."""
        self._free.extend(pages)
        self.version += 1

    def release(self, page: int) -> None:
        """Back to kv: our pin on a sealed page, or our lease."""
        if self.up or self.reasserting:
            self._giving.append(page)
        else:
            self.generation.pop(page, None)

    def lose(self, lost: set[int]) -> None:
        """These handles are not valid any more."""
        self._free = [page for page in self._free if page not in lost]
        self._giving = [page for page in self._giving if page not in lost]
        for page in lost:
            self.generation.pop(page, None)

    def adopt(self, page: int, generation: int) -> None:
        """A page became ours by pin or lease, and is not free."""
        self.generation[page] = generation

    def leased(self, lease: int, pages: Sequence[int], generations: Sequence[int], now: int) -> None:
        """kv's answer; an answer to a question of before its restart is none."""
        if lease != self._lease or not self.asking:
            return
        self.asking = False
        self.generation.update(zip(pages, generations, strict=True))
        self._free.extend(pages)
        if pages:
            self.version += 1
        if len(pages) < self._asked:
            self._dry_since = self._ceiling_since = now
            self._ceiling = len(self.generation)
        else:
            self._ceiling = 0

    def tick(self, now: int) -> None:
        """Others may have given pages back since kv had none."""
        if self._dry_since and now - self._dry_since >= RETRY_NS:
            self._dry_since = 0
        if self._ceiling and now - self._ceiling_since >= CEILING_NS:
            self._ceiling = 0
            self.version += 1

    def flush(self, shortfall: int) -> list[Action]:
        """Ask ahead of need, and give back what is too much. `shortfall` pages were wanted and not there."""
        if not self.up:
            return []
        actions: list[Action] = []
        if len(self._free) > 4 * self._extent and not shortfall:
            self._giving.extend(self.take(len(self._free) - 2 * self._extent))
        while self._giving:
            actions.append(self._give_back())
        if not self.asking and not self._dry_since and len(self._free) < self._extent + shortfall:
            self._lease += 1
            self._asked = min(2 * self._extent + shortfall - len(self._free), MAX_HANDLES)
            self.asking = True
            actions.append(LeasePages(self._lease, self._asked))
        return actions

    def _give_back(self) -> Action:
        pages, self._giving = self._giving[:MAX_HANDLES], self._giving[MAX_HANDLES:]
        generations = [self.generation.pop(page) for page in pages]
        self._dry_since = 0  # what we gave back, kv can give again
        self.version += 1
        return ReleasePages(pack_u32(pages), pack_u32(generations))

    def pack(self, pages: Sequence[int]) -> tuple[bytes, bytes]:
        """Handles on the wire: pages and their generations."""
        return pack_u32(pages), pack_u32([self.generation[page] for page in pages])


def unpack_handles(pages: bytes, generations: bytes) -> tuple[list[int], list[int]]:
    """The inverse of `PagePool.pack`."""
    return unpack_u32(pages).tolist(), unpack_u32(generations).tolist()
