"""How fast the queue drains, measured; for Retry-After and for deadlines that cannot be met."""

from __future__ import annotations

from math import ceil, exp
from typing import Final

_MEMORY_S: Final = 20.0


class DrainRate:
    """Requests and tokens that leave the queue per second, over the last twenty seconds or so."""

    __slots__ = ("_at", "_began", "_requests", "_tokens")

    def __init__(self) -> None:
        self._requests = self._tokens = 0.0
        self._at = self._began = 0

    def left(self, tokens: int, now: int) -> None:
        """A request of so many tokens left the queue for a slot."""
        if not self._began:
            self._began = self._at = now
        self._decay(now)
        self._requests += 1
        self._tokens += tokens

    def seconds_for(self, requests: int, tokens: int, now: int) -> float:
        """How long it takes until so many have left; 0 where nothing has been measured."""
        self._decay(now)
        if self._requests < 0.01:
            return 0.0
        span = min(_MEMORY_S, max(0.1, (now - self._began) / 1e9))
        return max(requests * span / self._requests, tokens * span / max(self._tokens, 1.0))

    def retry_after_s(self, requests: int, tokens: int, now: int) -> float:
        """`seconds_for` as an answer to a client: whole seconds from 1 to 60."""
        return float(min(60, max(1, ceil(self.seconds_for(requests, tokens, now)))))

    def _decay(self, now: int) -> None:
        keep = exp(-(now - self._at) / 1e9 / _MEMORY_S)
        self._requests *= keep
        self._tokens *= keep
        self._at = now
