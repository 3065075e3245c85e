"""Which adapters a replica has in memory: a bounded number, the least recently used goes first. Pure.

    wanted ──► loading ──► there ──► (leaving) ──► gone
                  └── failed: not tried again for a while

One that is used by a request, or by a plan that was sent, never goes; nor does one that has just come for a request,
which is about to use it: else two that wait for one place could take it from each other for ever. Where all are used
and another one is waited for, one of them is told to leave: it takes no new requests, and goes with its last one. So
none keeps the others out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

AWAITED_NS: Final = 2_000_000_000  # one that has come for a request is kept so long for it
AGAIN_NS: Final = 5_000_000_000  # one that could not be read is tried again after so long


@dataclass(slots=True)
class _Held:
    """One adapter. `until`: the last step that may use it; `awaited_ns`: till then a request is expected to use it."""

    there: bool = False
    leaving: bool = False
    users: int = 0
    until: int = 0
    awaited_ns: int = 0


class Residency:
    """The adapters of one replica, by number.

    Args:
        room: how many.

    Attributes:
        changed: `numbers` are others than the replica was told.
        evicted: how many have gone for others since somebody looked.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.changed = False
        self.evicted = 0
        self._held: OrderedDict[int, _Held] = OrderedDict()  # the least recently used first
        self._failed: dict[int, int] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those that the replica shall have, the ones that it does not have yet last."""
        there = [number for number, held in self._held.items() if held.there]
        return (*there, *(number for number, held in self._held.items() if not held.there))

    def has(self, number: int) -> bool:
        """Whether a request for it can run now."""
        held = self._held.get(number)
        return held is not None and held.there and not held.leaving

    def holds(self, number: int) -> bool:
        """Whether it is there, or comes."""
        return number in self._held

    def comes(self, number: int) -> bool:
        """Whether it is being loaded."""
        held = self._held.get(number)
        return held is not None and not held.there

    def in_memory(self, number: int) -> bool:
        """Whether it is there, for whomever."""
        held = self._held.get(number)
        return held is not None and held.there

    @property
    def there(self) -> int:
        """How many are in memory."""
        return sum(held.there for held in self._held.values())

    def fetch(self, number: int, completed: int, now: int) -> bool:
        """Have it loaded, in place of one that nobody uses if need be. Whether it is there or comes.

        Args:
            completed: the last step that the replica has done.
        """
        if (held := self._held.get(number)) is not None:
            return not held.leaving
        if self._failed.get(number, 0) > now:
            return False
        if len(self._held) >= self.room and not self._evict(completed, now):
            return False
        self._failed.pop(number, None)
        self._held[number] = _Held()
        self.changed = True
        return True

    def loaded(self, number: int, now: int, *, awaited: bool) -> bool:
        """The replica has it, perhaps for a request. Whether that is news."""
        held = self._held.get(number)
        if held is None or held.there:
            return False
        held.there = True
        held.awaited_ns = now + AWAITED_NS if awaited else 0
        self._held.move_to_end(number)
        return True

    def failed(self, number: int, now: int) -> bool:
        """It cannot be read there. Whether that was waited for."""
        held = self._held.get(number)
        if held is None or held.there:
            return False
        self._drop(number)
        self._failed[number] = now + AGAIN_NS
        return True

    def enter(self, number: int) -> None:
        """A request that is computed with it got a slot."""
        held = self._held[number]
        held.users += 1
        held.awaited_ns = 0
        self._held.move_to_end(number)

    def leave(self, number: int, last_step: int) -> None:
        """... and left it; steps up to that one may still know the request."""
        held = self._held[number]
        held.users -= 1
        held.until = max(held.until, last_step)

    def settled(self) -> None:
        """No step that was sent will be executed any more."""
        for held in self._held.values():
            held.until = 0

    def make_one_leave(self, wanted: int, now: int) -> None:
        """Somebody waits for room, and all are in use: the one with the fewest users shall go, if none does yet."""
        if wanted in self._held or len(self._held) < self.room:
            return
        if any(held.leaving or not held.there for held in self._held.values()):
            return
        others = ((held.users, number) for number, held in self._held.items() if held.awaited_ns <= now)
        _, number = min(others, default=(0, 0))
        if number:
            self._held[number].leaving = True

    def forget(self, number: int, completed: int) -> None:
        """Nobody will ask for it any more."""
        held = self._held.get(number)
        if held is not None and self._idle(held, completed):
            self._drop(number)
        elif held is not None:
            held.leaving = True

    def sweep(self, completed: int) -> None:
        """Those that leave and are used no more are gone."""
        for number in [number for number, held in self._held.items() if held.leaving and self._idle(held, completed)]:
            self.evicted += 1
            self._drop(number)

    def _evict(self, completed: int, now: int) -> bool:
        for number, held in self._held.items():
            if held.there and self._idle(held, completed) and held.awaited_ns <= now:
                self.evicted += 1
                self._drop(number)
                return True
        return False

    def _drop(self, number: int) -> None:
        del self._held[number]
        self.changed = True

    @staticmethod
    def _idle(held: _Held, completed: int) -> bool:
        return not held.users and held.until <= completed
