"""Sealed pages by digest, and who computes or asks for which block. No decisions about requests.

An entry lives while somebody references it or kv owes an answer about it; then our pin goes back to kv, which keeps
the page cached. kv holds at most one pin of ours per page, and never learns how many requests share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from scheduler.core.pages import PagePool


class EntryState(Enum):
    """What kv knows of the page."""

    UNSENT = "unsent"  # full and final; kv has not been told
    SEALING = "sealing"  # kv was told and has not answered
    PINNED = "pinned"  # in kv's index, pinned for us
    OWN = "own"  # kv has this content in another page; this one stays a lease of ours


@dataclass(slots=True, eq=False)
class Entry:
    """A page whose content is full, final and named."""

    digest: bytes
    parent: bytes
    page: int
    state: EntryState
    refs: int = 0
    replica: int = -1


class PrefixIndex:
    """Digest to page, with references.

    Attributes:
        computing: block digests that an admitted request is going to compute, and that request's id.
        asked: block digests that kv has been asked about and has not answered, with the look-up's number.
        on_wake: called with a waiting key when the block that it waited for is named, found, or given up.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._entries: dict[bytes, Entry] = {}
        self.unsent: list[Entry] = []
        self._waiting: dict[bytes, list[int]] = {}
        self.on_wake: Callable[[int], None] = lambda _: None
        self._sealing: dict[int, list[Entry]] = {}
        self._seal = 0
        self.computing: dict[bytes, int] = {}
        self.asked: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> Entry | None:
        """The entry of a block."""
        return self._entries.get(digest)

    def entries(self) -> Iterable[Entry]:
        """All of them."""
        return self._entries.values()

    def seal(self, digest: bytes, parent: bytes, page: int, replica: int) -> Entry:
        """A request's own page is full and final: name it. The caller holds the first reference."""
        entry = Entry(digest, parent, page, EntryState.UNSENT, 1, replica)
        self._entries[digest] = entry
        self.unsent.append(entry)
        return entry

    def found(self, digest: bytes, parent: bytes, page: int, generation: int) -> Entry:
        """kv had the block and pinned it for us. Nobody references it yet."""
        self._pool.adopt(page, generation)
        entry = self._entries[digest] = Entry(digest, parent, page, EntryState.PINNED)
        return entry

    def wait(self, digest: bytes, request: int) -> None:
        """Call `on_wake(request)` when something becomes of the block."""
        self._waiting.setdefault(digest, []).append(request)

    def wake(self, digest: bytes) -> None:
        """Something became of the block."""
        for request in self._waiting.pop(digest, ()):
            self.on_wake(request)

    def release(self, entry: Entry) -> None:
        """One reference less."""
        entry.refs -= 1
        self.settle(entry)

    def settle(self, entry: Entry) -> None:
        """Let go of an entry that nobody references, unless kv owes an answer about it, or is about to be told."""
        if entry.refs or entry.state is EntryState.SEALING:
            return
        if entry.state is EntryState.UNSENT and self._pool.up:
            return  # a request's last block, as often as not: it is what the next turn of a chat begins with
        if self._entries.get(entry.digest) is not entry:
            return
        del self._entries[entry.digest]
        if entry.state is EntryState.PINNED:
            self._pool.release(entry.page)
            return
        if entry.state is EntryState.UNSENT:
            self.unsent.remove(entry)
        self._pool.give((entry.page,))

    def take_unsent(self, limit: int) -> tuple[int, list[Entry]]:
        """Entries to tell kv about now, with the number of the question; parents always before children."""
        batch, self.unsent = self.unsent[:limit], self.unsent[limit:]
        for entry in batch:
            entry.state = EntryState.SEALING
        self._seal += 1
        if batch:
            self._sealing[self._seal] = batch
        return self._seal, batch

    def answered(self, seal: int) -> list[Entry]:
        """The entries of a question that kv has answered; none if it was asked before kv's restart."""
        return self._sealing.pop(seal, [])

    def drop(self, entry: Entry) -> None:
        """The page does not hold this block any more: forget it, whoever references it."""
        if self._entries.get(entry.digest) is entry:
            del self._entries[entry.digest]
        if entry.state is EntryState.UNSENT and entry in self.unsent:
            self.unsent.remove(entry)

    def kv_lost(self) -> list[Entry]:
        """kv is gone: no answer will come. Returns the entries of which nobody knows whether they were sealed."""
        asked, self.asked = self.asked, {}
        for digest in asked:
            self.wake(digest)
        unknown = [entry for batch in self._sealing.values() for entry in batch]
        self._sealing.clear()
        for entry in tuple(self.unsent):
            self.settle(entry)
        return unknown
