"""kv as the core's actions and events know it: questions out, answers in, a new kv told what we hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bus.messages import pages
from bus.messages.pages import MAX_PAGES_PER_MESSAGE, PoolOpened
from bus.messages.steps import KvShape
from bus.packed import pack_u32, unpack_u32
from bus.process import Life
from kv.client import PageClient
from scheduler.core import events as e

_CHUNK: Final = 4 * MAX_PAGES_PER_MESSAGE
_READ_S: Final = 0.001


class PageLink:
    """The scheduler's session with kv.

    Args:
        on_event: takes what kv says.
    """

    def __init__(self, life: Life, on_event: Callable[[e.Event], None]) -> None:
        self._life, self._on_event = life, on_event
        self._shape: tuple[bytes, KvShape] | None = None
        self._pool = 0
        self._client = PageClient(life, "scheduler", on_up=self._open, on_down=lambda: on_event(e.KvDown()))

    def use(self, root: bytes, shape: KvShape) -> None:
        """The pool to work with; known when the first worker has said what its KV looks like."""
        if self._shape is None:
            self._shape = (root, shape)
            if self._client.up:
                self._open()

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def ask(self, action: e.Action) -> bool:
        """Carry out an action of the core. False where it is none for kv. What kv does not hear because it is gone
        right now, the core learns by `KvDown`."""
        client, pool = self._client, self._pool
        if isinstance(action, e.SealPages):
            seal = action.seal
            client.seal(
                pool, action.pages, action.generations, action.digests, action.parents,
                lambda m: self._on_event(e.Sealed(seal, m.codes, m.pages, m.generations)),
            )  # fmt: skip
        elif isinstance(action, e.LeasePages):
            lease = action.lease
            client.lease(pool, action.count, lambda m: self._on_event(e.Leased(lease, m.pages, m.generations)))
        elif isinstance(action, e.LookUp):
            self._look_up(action)
        elif isinstance(action, e.ReleasePages):
            client.release(pool, action.pages, action.generations)
        elif isinstance(action, e.ReassertPages):
            self._reassert(action)
        else:
            return False
        return True

    def _look_up(self, action: e.LookUp) -> None:
        lookup = action.lookup

        def answered(m: pages.Found) -> None:
            self._on_event(e.Found(lookup, m.pages, m.generations, m.ahead, m.ahead_us))

        if action.wait_ms:
            self._client.prefetch(self._pool, action.digests, action.wait_ms, answered)
        else:
            self._client.lookup(self._pool, action.digests, answered)
        after = self._life.loop.after

        def expired() -> None:
            self._on_event(e.LookupExpired(lookup))

        def due() -> None:
            after(_READ_S, expired)  # where this process was without a core, the answer is here already, and read first

        after(action.due_ms / 1e3, due)

    def _open(self) -> None:
        if self._shape is not None:
            self._client.open_pool(*self._shape, self._opened)

    def _opened(self, opened: PoolOpened) -> None:
        self._pool = opened.pool
        self._on_event(e.KvUp(opened.capacity))

    def _reassert(self, action: e.ReassertPages) -> None:
        """In as many messages as it takes; the core hears of all that is lost at once."""
        size = max(len(action.pins), len(action.leases), 1)
        starts = range(0, size, _CHUNK)
        lost: list[int] = []

        def answered(message: pages.Reasserted, last: bool) -> None:
            lost.extend(unpack_u32(message.lost).tolist())
            if last:
                self._on_event(e.Reasserted(pack_u32(lost)))

        for start in starts:
            part, last = slice(start, start + _CHUNK), start == starts[-1]
            self._client.reassert(
                self._pool, action.pins[part], action.pin_generations[part], action.leases[part],
                action.lease_generations[part], lambda m, last=last: answered(m, last), final=last,  # type: ignore[misc]
            )  # fmt: skip
