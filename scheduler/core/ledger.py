"""Which pages a request holds: references on known blocks, sealing what it computed, giving back. No choices.

A request holds one reference on the entry of each of its leading blocks that are full, final and named. A page of its
table that is not its entry's page is its own: nobody else reads it, and it goes back to the free list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bus.blocks import DIGEST_BYTES
from bus.packed import pack_u32
from scheduler.core.events import Action, SealPages
from scheduler.core.pages import MAX_HANDLES, PagePool
from scheduler.core.prefix import Entry, EntryState, PrefixIndex
from scheduler.core.replica import Replica, Retired
from scheduler.core.request import Request
from scheduler.core.windows import NO_PAGE, Behind


class Ledger:
    """Pages in the hands of requests."""

    def __init__(self, pool: PagePool, index: PrefixIndex) -> None:
        self.pool = pool
        self.index = index

    def match(self, request: Request) -> None:
        """Reference as many more of its leading blocks as are known here."""
        for block in range(len(request.entries), request.reusable_blocks):
            entry = self.index.get(request.digest(block))
            if entry is None:
                return
            entry.refs += 1
            request.entries.append(entry)

    def forsake(self, request: Request) -> None:
        """Drop a waiting request's references. It may be looked up again."""
        self.forsake_beyond(request, 0)
        request.looked_up = 0

    def forsake_beyond(self, request: Request, blocks: int) -> None:
        """Drop its references on all but the first `blocks` blocks."""
        if len(request.entries) > blocks:
            dropped = request.entries[blocks:]
            del request.entries[blocks:]
            self._release(dropped)

    def claim(self, request: Request) -> None:
        """Say that the request is going to compute those of its full blocks that are not known."""
        request.claimed = []
        for block in range(len(request.entries), len(request.chain) // DIGEST_BYTES):
            digest = request.digest(block)
            if self.index.computing.setdefault(digest, request.id) == request.id:
                request.claimed.append(digest)

    def unclaim(self, request: Request) -> None:
        """It is not going to compute anything any more. Wakes those who waited for it."""
        for digest in request.claimed:
            if self.index.computing.get(digest) == request.id:
                del self.index.computing[digest]
                self.index.wake(digest)
        request.claimed = []

    def seal(self, request: Request, tokens: npt.NDArray[np.uint32], blocks: int, replica: int) -> None:
        """The first `blocks` blocks of a running request are computed: name those that are not named yet.

        Args:
            tokens: [context] ids of the request, as far as they are known.
        """
        first, size = len(request.entries), request.page_tokens
        digested = len(request.chain) // DIGEST_BYTES
        if blocks > digested:
            request.append_blocks(tokens[digested * size : blocks * size].astype("<u4", copy=False).tobytes())
        index, parent = self.index, request.parent(first)
        for block in range(first, blocks):
            digest = request.digest(block)
            if digest in index.asked:
                # kv may be about to hand us a page with this content. Naming ours now would end in two pins on one
                # page and no way to tell who holds which; the next full block tries again.
                return
            entry = index.get(digest)
            if entry is None:
                entry = index.seal(digest, parent, request.table[block], replica)
            else:
                entry.refs += 1
            request.entries.append(entry)
            if index.computing.get(digest) == request.id:
                del index.computing[digest]
                index.wake(digest)
            parent = digest

    def retire(self, replica: Replica, slot: int, *, keep_entries: bool = False) -> Request:
        """A request leaves its slot. What it held is given back when no step in flight can write it any more.

        Args:
            keep_entries: it goes on elsewhere soon, and keeps its references on named blocks.
        """
        after = int(replica.last_step[slot])
        request = replica.leave(slot)
        self.unclaim(request)
        own = request.own_pages
        entries = request.entries[request.behind.blocks :]
        if keep_entries and not request.behind.blocks:  # without its first blocks, the others are no prefix
            entries = []
        else:
            request.entries = []
        request.table, request.behind = [], Behind()
        if replica.device_pages:
            replica.forgetting += own
        left = Retired(after, slot, own, entries)
        if after <= replica.completed_step:
            replica.free_slots.append(slot)
            self.pool.give(own)
            self._release(entries)
        else:
            self.pool.coming += len(own)
            replica.retired.append(left)
        return request

    def let_go(self, request: Request, blocks: int) -> None:
        """A running request does without its pages of its first `blocks` blocks: no step reads them any more."""
        for block in range(request.behind.blocks, blocks):
            page, request.table[block] = request.table[block], NO_PAGE
            entry = request.entries[block] if block < len(request.entries) else None
            if entry is None or entry.page != page:
                self.pool.give((page,))
            if entry is not None:
                self.index.release(entry)
        request.behind.blocks = blocks

    def move(self, replica: Replica, slot: int) -> Request:
        """A request leaves its slot, with its pages, for another replica. No step in flight may write them."""
        assert int(replica.last_step[slot]) <= replica.completed_step
        request = replica.leave(slot)
        replica.free_slots.append(slot)
        return request

    def give_back(self, due: list[Retired]) -> None:
        """What was retired may be reused."""
        for left in due:
            self.pool.coming -= len(left.pages)
            self.pool.give(left.pages)
            self._release(left.entries)

    def answered(self, seal: int, codes: list[int], pages: list[int], generations: list[int]) -> list[Entry]:
        """kv's answer to a `SealPages`. Returns entries whose page is not ours."""
        stale: list[Entry] = []
        for entry, code, page, generation in zip(self.index.answered(seal), codes, pages, generations, strict=False):
            if code == 0:
                entry.state = EntryState.PINNED
            elif code == 1:
                # Kept by kv in a page of its own, and pinned for us. Whoever uses ours goes on with it: swapping
                # block tables under steps in flight buys nothing. Theirs is found again when ours is gone.
                entry.state = EntryState.OWN
                if page != entry.page:
                    self.pool.adopt(page, generation)
                    self.pool.release(page)
            else:
                stale.append(entry)
                continue
            self.index.settle(entry)
        return stale

    def flush(self, shortfall: int) -> list[Action]:
        """What kv is to be told now, in the order that matters: seals before releases of what was sealed."""
        if not self.pool.up:
            return []
        actions: list[Action] = []
        while self.index.unsent:
            number, batch = self.index.take_unsent(MAX_HANDLES)
            pages, generations = self.pool.pack([entry.page for entry in batch])
            digests = b"".join([entry.digest for entry in batch])
            parents = b"".join([entry.parent for entry in batch])
            actions.append(SealPages(number, pages, generations, digests, parents))
        return actions + self.pool.flush(shortfall)

    def holdings(self, replicas: list[Replica]) -> tuple[list[int], list[int]]:
        """All that is ours: pages pinned (sealed, as far as we know), and pages leased."""
        pins: list[int] = []
        leases = self.pool.free_pages()
        for entry in self.index.entries():
            (pins if entry.state in (EntryState.PINNED, EntryState.SEALING) else leases).append(entry.page)
        for replica in replicas:
            for request in replica.requests:
                if request is not None:
                    leases += request.own_pages
            for left in replica.retired + replica.limbo:
                leases += left.pages
        return pins, leases

    def packed_holdings(self, replicas: list[Replica]) -> tuple[bytes, bytes, bytes, bytes]:
        """`holdings` on the wire: pins, their generations, leases, their generations."""
        pins, leases = self.holdings(replicas)
        generation = self.pool.generation
        return (
            pack_u32(pins),
            pack_u32([generation[page] for page in pins]),
            pack_u32(leases),
            pack_u32([generation[page] for page in leases]),
        )

    def lose(self, lost: set[int], replicas: list[Replica]) -> None:
        """Pages are not ours any more, wherever they are; nobody references them by now."""
        for entry in [entry for entry in self.index.entries() if entry.page in lost]:
            self.index.drop(entry)
        for replica in replicas:
            for left in replica.retired + replica.limbo:
                kept = [page for page in left.pages if page not in lost]
                self.pool.coming -= len(left.pages) - len(kept)
                left.pages = kept
        self.pool.lose(lost)

    def _release(self, entries: list[Entry]) -> None:
        for entry in reversed(entries):  # leaves first: kv's eviction order
            self.index.release(entry)
