"""Adapters: which there are, and how requests come to a replica that has theirs.

An adapter is fetched by the arrival of a request for it, to one replica; where it is not there when the request's turn
comes, the request is parked until it is, and nobody behind it waits. Which ones a replica has is `residency`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bus.messages.adapters import AdapterFacts, AdapterSource
from bus.messages.requests import RefusalCode

if TYPE_CHECKING:
    from scheduler.core.replica import Replica
    from scheduler.core.request import Request
    from scheduler.core.state import State

LINGER_NS: Final = 300_000_000_000  # an unloaded one may be asked for by who had it under way as this process died


@dataclass(slots=True, eq=False)
class Known:
    """An adapter of this model.

    Attributes:
        digest: empty while no worker has read it.
        listed: clients may name it; else it is there for those who have it under way.
        users: requests that wait or run.
        trouble: why nobody could read it.
        until_ns: unlisted and unused, it is forgotten after this.
        since_ns: when it was made known; read for the first time it waits since then.
    """

    number: int
    name: str
    source: str
    digest: bytes = b""
    listed: bool = True
    users: int = 0
    trouble: str = ""
    until_ns: int = 0
    since_ns: int = 0
    created: int = 0

    @property
    def told(self) -> AdapterSource:
        """For workers."""
        return AdapterSource(self.number, self.name, self.source, self.digest)


@dataclass(slots=True)
class Adapters:
    """All adapters of a model.

    Attributes:
        known: by number.
        waiting: parked requests, with the time since when, in order.
        version: goes up when what is `known` changes.
    """

    known: dict[int, Known] = field(default_factory=dict)
    waiting: OrderedDict[int, int] = field(default_factory=OrderedDict)
    version: int = 0
    _numbers: int = 0
    _by_digest: dict[bytes, Known] = field(default_factory=dict)

    def facts(self) -> tuple[AdapterFacts, ...]:
        """For ingresses."""
        listed = (known for known in self.known.values() if known.listed)
        return tuple(AdapterFacts(known.name, known.digest, known.trouble, known.created) for known in listed)

    def named(self, name: str) -> Known | None:
        """The one that clients get by a name."""
        return next((known for known in self.known.values() if known.listed and known.name == name), None)

    def add(self, name: str, source: str, digest: bytes = b"", *, now: int = 0, created: int = 0) -> Known:
        """Another one. Of the same content as one before, it is served as that one."""
        self._numbers += 1
        known = self.known[self._numbers] = Known(self._numbers, name, source, digest, since_ns=now, created=created)
        if digest:
            self._by_digest.setdefault(digest, known)
        self.version += 1
        return known

    def unlist(self, known: Known, until_ns: int) -> None:
        """Clients may not name it any more."""
        known.listed, known.until_ns = False, until_ns
        self.version += 1

    def remove(self, known: Known) -> None:
        """It is not there any more."""
        del self.known[known.number]
        if self._by_digest.get(known.digest) is known:
            del self._by_digest[known.digest]
            for other in self.known.values():
                if other.digest == known.digest:
                    self._by_digest[known.digest] = other
                    break
        self.version += 1

    def read(self, known: Known, digest: bytes) -> None:
        """A worker knows its content now."""
        known.digest, known.trouble = digest, ""
        self._by_digest.setdefault(digest, known)
        self.version += 1

    def lacks(self, digest: bytes) -> tuple[RefusalCode, str, float] | None:
        """Why a request for it cannot be taken; None where it can."""
        if digest in self._by_digest:
            return None
        if any(not known.digest and not known.trouble for known in self.known.values()):
            return "not_ready", "adapters are being read", 1.0
        return "adapter", "the adapter of this request is not loaded any more", 0.0

    def enter(self, digest: bytes) -> int:
        """A request for it is taken. Returns its number."""
        known = self._by_digest[digest]
        known.users += 1
        return known.number

    def leave(self, request: Request) -> None:
        """A request has ended."""
        self.waiting.pop(request.id, None)
        self.known[request.adapter].users -= 1


# --- requests -------------------------------------------------------------------------------------------------------


def prefetch(state: State, number: int) -> None:
    """A request for an adapter has come: have it loaded before its turn."""
    serving = [replica for replica in state.replicas.values() if replica.serving]
    if not any(replica.adapters.holds(number) for replica in serving):
        fetch(state, number, serving)


def lacking(request: Request, sides: Iterable[list[Replica]]) -> list[Replica]:
    """Replicas of which one must have a request's adapter before it can run, and none has; empty where it can, or has
    to wait for a slot anyway.

    Args:
        sides: where it is computed, one after the other.
    """
    for side in sides:
        open_ = [replica for replica in side if replica.openings]
        if open_ and not any(replica.adapters.has(request.adapter) for replica in open_):
            return open_
    return []


def wait_for_adapter(state: State, request: Request, replicas: list[Replica]) -> None:
    """Park a request until one of these has its adapter."""
    state.queue.park(request)
    state.note_held(request, "adapter")
    state.adapters.waiting[request.id] = state.now
    if not any(replica.adapters.holds(request.adapter) for replica in replicas):
        fetch(state, request.adapter, replicas)


def fetch(state: State, number: int, replicas: list[Replica]) -> bool:
    """Have an adapter loaded by the one that has the most room and the least to do. Whether one does."""
    for replica in sorted(replicas, key=lambda each: (len(each.adapters.numbers), each.running, each.number)):
        if replica.adapters.fetch(number, replica.completed_step, state.now):
            return True
    return False
