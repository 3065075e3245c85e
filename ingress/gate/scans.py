"""Who shows wrong keys waits longer each time. Pure; a bounded number of addresses is remembered."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

REMEMBERED: Final = 4096
FREE: Final = 2  # a typing mistake costs nothing
FIRST_S: Final = 0.1
LONGEST_S: Final = 2.0
FORGIVEN_S: Final = 10.0  # one failure is forgotten in so long


class Scans:
    """Failures by address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many, when

    def failed(self, address: str, now_s: float) -> float:
        """One more; for how many seconds its answer is to be held back."""
        count, at_s = self._failures.pop(address, (0.0, now_s))
        count = max(0.0, count - (now_s - at_s) / FORGIVEN_S) + 1.0
        self._failures[address] = (count, now_s)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)
        return 0.0 if count <= FREE else min(LONGEST_S, FIRST_S * 2.0 ** min(20.0, count - FREE - 1))
