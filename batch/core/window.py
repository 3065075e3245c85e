"""How many lines of a batch are asked for at once, and from when on: it grows as lines are answered, and is halved
where they are refused for now, as by a full queue or a limit of the batch's key.

Whether the host is idle is not guessed at here: lines wait in the scheduler's queue behind everything else, and run
when nothing else wants to. The window only has to be so large that a batch which is alone fills every slot.

Additive increase and multiplicative decrease: Chiu and Jain, 1989, doi:10.1016/0169-7552(89)90019-6.
"""

from __future__ import annotations

from typing import Final

SOONEST_S: Final = 0.25
LATEST_S: Final = 60.0


class Window:
    """Of one batch.

    Args:
        most: that it ever is.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._size = float(self._most)
        self._refusals = 0  # one after another
        self.opens_ns = 0  # nothing is sent before

    @property
    def size(self) -> int:
        """Lines at once."""
        return int(self._size)

    def open_at(self, now_ns: int) -> bool:
        """Whether lines may be sent."""
        return now_ns >= self.opens_ns

    def answered(self) -> None:
        """A line was, well or not: there is room."""
        self._refusals = 0
        self._size = min(float(self._most), self._size + 1.0 / self._size)

    def refused(self, wait_s: float, now_ns: int) -> None:
        """A line was not taken, and may be later. Those that were sent with it say no more than it does.

        Args:
            wait_s: that the refusal asks for; 0 where it says nothing.
        """
        if not self.open_at(now_ns):
            return
        self._refusals = min(self._refusals + 1, 30)
        self._size = max(1.0, self._size / 2)
        patience_s = wait_s or SOONEST_S * 2.0**self._refusals
        self.opens_ns = now_ns + int(min(LATEST_S, max(SOONEST_S, patience_s)) * 1e9)
