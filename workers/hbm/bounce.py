"""Pinned pages between a device and an arena that is not pinned, in both directions, used in turn. Pure.

A page on its way out is in its pinned page when the device has copied it, and in the arena when the host has. Between
the two the pinned page is *owed*: whoever takes it for something else has the host bring on what is in it first.
"""

from __future__ import annotations

from collections.abc import Callable


class Bounces:
    """So many pinned pages.

    Args:
        wait: until the device is through with a pinned page.
        bring_on: copy a pinned page to a cell of the arena.
    """

    def __init__(self, count: int, wait: Callable[[int], None], bring_on: Callable[[int, int], None]) -> None:
        self._count, self._wait, self._bring_on = count, wait, bring_on
        self._next = 0
        self._owed: dict[int, int] = {}  # pinned page: cell

    def take(self) -> int:
        """A pinned page that nobody uses; waits for it."""
        at = self._next = (self._next + 1) % self._count
        self._wait(at)
        self._settle(at)
        return at

    def owe(self, at: int, cell: int) -> None:
        """What the device copies to a pinned page belongs in this cell."""
        self._owed[at] = cell

    def settle(self, at: int, cell: int) -> None:
        """The cell holds what was owed to it, when this returns."""
        if self._owed.get(at) == cell:
            self._wait(at)
            self._settle(at)

    def _settle(self, at: int) -> None:
        if (cell := self._owed.pop(at, None)) is not None:
            self._bring_on(at, cell)
