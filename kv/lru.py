"""The order in which cached pages are given up: segmented LRU, twice-used pages last. Pure, O(1).

Karedla, Love, Wherry, "Caching strategies to improve disk system performance", IEEE Computer 27(3), 1994.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import Final

_PROTECTED_SHARE: Final = 0.8


class SegmentedLru:
    """Cells that may be evicted: used once (probation), and used again (protected)."""

    def __init__(self) -> None:
        self._probation: OrderedDict[int, None] = OrderedDict()
        self._protected: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def __contains__(self, cell: object) -> bool:
        return cell in self._probation or cell in self._protected

    def offer(self, cell: int, *, again: bool) -> None:
        """`cell` may go, the last of its segment."""
        self.forget(cell)
        (self._protected if again else self._probation)[cell] = None
        while len(self._protected) > _PROTECTED_SHARE * len(self) + 1:
            demoted, _ = self._protected.popitem(last=False)
            self._probation[demoted] = None

    def offer_first(self, cell: int) -> None:
        """`cell` may go, before all others: a block was last used no later than the one that continued it."""
        self.forget(cell)
        self._probation[cell] = None
        self._probation.move_to_end(cell, last=False)

    def forget(self, cell: int) -> None:
        """`cell` must stay, or is gone."""
        self._probation.pop(cell, None)
        self._protected.pop(cell, None)

    def oldest(self, spare: Container[int] = ()) -> int | None:
        """The next to go, one of `spare` only where there is no other; None where there is none."""
        last: int | None = None
        for queue in (self._probation, self._protected):
            for cell in queue:
                if cell not in spare:
                    return cell
                last = cell if last is None else last
        return last
