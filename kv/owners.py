"""Who holds what, and when a dead owner's pages may be written by others. Pure.

Leases belong to an *owner*: a scheduler's name and epoch. Its workers, the *writers*, write the bytes. When the owner
ends, writers may still be at it, so its leased pages are *quarantined* until each of them is proven dead or has said
`Fenced`. A closed connection proves nothing, and no time-out ever frees a page that somebody may still write: an owner
that only fell silent may give its pages to a worker that comes now, so until it is proven dead it counts among those
who may write, and so do workers that come meanwhile.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bus.messages.pages import FromKv, ToKv
from kv.layout import name_hash
from kv.pool import UNKNOWN_OWNER, Owner, Pool
from kv.slabs import PageKey

WriterKey = tuple[int, int]  # (hash of the worker's name, its epoch)

MAX_REPLIES: Final = 64
# A process of which nothing is known but that it may live. It may write for anybody, and is never proven dead.
SOMEBODY: Final[WriterKey] = (0, 0)
_ANYBODY: Final = 0


@dataclass(eq=False)
class Session:
    """One attached client.

    Attributes:
        pins: how often it holds each sealed page.
        leases: pages it may have written.
        pools: numbers it has opened.
        replies: the last ones, by rid, so that a repeated request is answered and not done again.
    """

    name: str
    epoch: int
    role: str
    owner_name: str
    pid: int
    pins: Counter[PageKey] = field(default_factory=Counter)
    leases: set[PageKey] = field(default_factory=set)
    pools: set[int] = field(default_factory=set)
    replies: OrderedDict[int, tuple[ToKv, FromKv]] = field(default_factory=OrderedDict)

    @property
    def owner(self) -> Owner:
        """As what it owns leases (schedulers)."""
        return name_hash(self.name), self.epoch

    @property
    def writer(self) -> WriterKey:
        """As what it writes (workers)."""
        return name_hash(self.name), self.epoch

    def replied(self, message: ToKv) -> FromKv | None:
        """The reply to this very request, where it is a repetition."""
        known = self.replies.get(message.rid)
        return known[1] if known is not None and known[0] == message else None

    def remember(self, message: ToKv, reply: FromKv) -> None:
        """What was answered."""
        self.replies[message.rid] = (message, reply)
        if len(self.replies) > MAX_REPLIES:
            self.replies.popitem(last=False)


def pin(session: Session, pool: Pool, cell: int) -> None:
    """A session holds a sealed page, once more."""
    pool.pin(cell)
    session.pins[pool.number, cell] += 1


def unpin(session: Session, pool: Pool, cell: int) -> None:
    """A session holds it once less."""
    pool.unpin(cell)
    session.pins[pool.number, cell] -= 1
    if not session.pins[pool.number, cell]:
        del session.pins[pool.number, cell]


@dataclass(eq=False)
class Writer:
    """A worker's process, from its `Attach` until it is proven dead, connected or not.

    Attributes:
        owner: hash of the name of the scheduler it writes for.
        fenced: it writes no more for epochs of the scheduler below this one.
    """

    owner: int
    fenced: int = 0


@dataclass(eq=False)
class Quarantine:
    """Pages of an owner that ended, and who may still write them."""

    owner: Owner
    pages: set[PageKey]
    writers: set[WriterKey | Owner]


class Owners:
    """Sessions by name, writers, quarantines.

    Args:
        writers: those that the last incarnation knew and that still live.
        living: owners that the last incarnation knew and that still live.
        somebody: whether there may be other writers.

    Attributes:
        living: owners whose death is not proven, attached or not.
    """

    def __init__(
        self, writers: dict[WriterKey, Writer], living: Iterable[Owner] = (), *, somebody: bool = False
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self.living = set(living)
        self.writers = dict(writers) | ({SOMEBODY: Writer(_ANYBODY)} if somebody else {})
        self.quarantines: list[Quarantine] = []

    def quarantine(self, owner: Owner, pages: set[PageKey]) -> set[PageKey]:
        """Put pages of an owner aside that ended or fell silent. Those that nobody can write are returned instead, free
        to be used."""
        writers = {key for key, writer in self.writers.items() if _may_write(writer, owner)}
        writers |= {owner} & self.living
        if not pages or not writers:
            return pages
        self.quarantines.append(Quarantine(owner, set(pages), writers))
        return set()

    def take_back(self, owner: Owner, page: PageKey) -> bool:
        """A page leaves its quarantine because its owner lives after all; False where it is in none."""
        for quarantine in self.quarantines:
            if quarantine.owner == owner and page in quarantine.pages:
                quarantine.pages.discard(page)
                return True
        return False

    def not_claimed(self, owner: Owner, number: int) -> set[PageKey]:
        """An owner is back and has said what it holds of a pool: the rest, which nobody writes, is free now."""
        free: set[PageKey] = set()
        for quarantine in self.quarantines:
            if quarantine.owner == owner:
                free |= {page for page in quarantine.pages if page[0] == number}
                quarantine.pages -= free
        self.quarantines = [quarantine for quarantine in self.quarantines if quarantine.pages]
        return free

    def older(self, owner: Owner) -> list[Owner]:
        """Earlier incarnations of an owner whose death is not proven. A name is one process's at a time."""
        return [known for known in self.living if known[0] == owner[0] and known[1] < owner[1]]

    def owner_died(self, owner: Owner) -> set[PageKey]:
        """A scheduler's process is proven dead. Returns pages that are free now."""
        self.living.discard(owner)
        return self._settle(owner, lambda of: of == owner)

    def writer_came(self, key: WriterKey, owner: int) -> None:
        """A worker attached, before it can have been given any work. It may have attached before, to this incarnation
        of kv or to an earlier one."""
        writer = self.writers.setdefault(key, Writer(owner))
        for quarantine in self.quarantines:
            if quarantine.owner in quarantine.writers and _may_write(writer, quarantine.owner):
                quarantine.writers.add(key)

    def writer_died(self, key: WriterKey) -> set[PageKey]:
        """A worker's process is proven dead. Returns pages that are free now."""
        self.writers.pop(key, None)
        return self._settle(key, lambda _: True)

    def writer_fenced(self, key: WriterKey, epoch: int) -> set[PageKey]:
        """A worker will not write for epochs of its owner below `epoch`. Returns pages that are free now."""
        writer = self.writers[key]
        writer.fenced = max(writer.fenced, epoch)
        return self._settle(key, lambda owner: not _may_write(writer, owner))

    def _settle(self, key: WriterKey | Owner, harmless: Callable[[Owner], bool]) -> set[PageKey]:
        free: set[PageKey] = set()
        for quarantine in tuple(self.quarantines):
            if harmless(quarantine.owner):
                quarantine.writers.discard(key)
                if not quarantine.writers:
                    free |= quarantine.pages
                    self.quarantines.remove(quarantine)
        return free


def _may_write(writer: Writer, owner: Owner) -> bool:
    if owner == UNKNOWN_OWNER or writer.owner == _ANYBODY:
        return True
    return writer.owner == owner[0] and writer.fenced <= owner[1]
