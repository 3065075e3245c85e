"""Whether an upstream is asked at all. Pure; times are given, in nanoseconds of one clock.

    closed ──failures of the last failures_of──► open ──open_s──► half open ──a good trial──► closed
       ▲                                          ▲                   │
       │                                          └──a bad trial──────┘  (twice as long, up to open_most_s)

Half open lets one call through at a time. What was let through before the circuit opened says nothing about it any
more: each opening begins a new era, and a call that ends in another era than it began in changes nothing. An upstream
that says when to come back (`Retry-After`) is left alone until then, which is no failure.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, NamedTuple

State = Literal["closed", "open", "half_open"]

LONGEST_WAIT_NS: Final = 600 * 10**9  # that an upstream's Retry-After is followed for


class Settings(NamedTuple):
    """The numbers of `[[upstream]]`."""

    failures: int
    failures_of: int
    open_ns: int
    open_most_ns: int


class Breaker:
    """The circuit of one upstream."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._recent: deque[bool] = deque(maxlen=settings.failures_of)  # whether they were good
        self._era = 0
        self._open_until_ns = 0  # 0 is closed
        self._openings = 0  # in a row
        self._trial = False  # one is under way
        self._wait_until_ns = 0

    def state(self, now_ns: int) -> State:
        """How it stands."""
        if not self._open_until_ns:
            return "closed"
        return "open" if now_ns < self._open_until_ns else "half_open"

    def retry_ns(self, now_ns: int) -> int:
        """0 where a call may be made now; else how long until then, as far as is known."""
        wait_ns = max(self._open_until_ns, self._wait_until_ns) - now_ns
        if wait_ns > 0:
            return wait_ns
        return self._settings.open_ns if self._open_until_ns and self._trial else 0

    def begin(self, now_ns: int) -> int:
        """A call is made: the era to end it with. Ask `retry_ns` before."""
        self._trial = self._trial or self.state(now_ns) == "half_open"
        return self._era

    def good(self, era: int) -> None:
        """A call went well."""
        if era != self._era:
            return
        if self._open_until_ns:
            self._era += 1
            self._open_until_ns, self._openings, self._trial = 0, 0, False
            self._recent.clear()
        self._recent.append(True)

    def bad(self, era: int, now_ns: int) -> None:
        """A call failed, and it was the upstream's fault."""
        if era != self._era:
            return
        self._recent.append(False)
        failed = len(self._recent) - sum(self._recent)
        if self._open_until_ns or failed >= self._settings.failures:
            self._open(now_ns)

    def neither(self, era: int) -> None:
        """A call ended in a way that says nothing of the upstream: its client left, or had asked for what cannot be."""
        if era == self._era:
            self._trial = False

    def wait(self, era: int, now_ns: int, wait_ns: int) -> None:
        """It has answered that it is to be left alone for so long."""
        self._wait_until_ns = max(self._wait_until_ns, now_ns + min(wait_ns, LONGEST_WAIT_NS))
        self.neither(era)

    def _open(self, now_ns: int) -> None:
        settings = self._settings
        # Doubled no further than it counts: the shift of a long outage would be a number of many digits.
        length_ns = min(settings.open_ns << min(self._openings, 32), settings.open_most_ns)
        self._era += 1
        self._openings += 1
        self._open_until_ns, self._trial = now_ns + length_ns, False
        self._recent.clear()
