"""Which prefixes are found again and again. Pure; a fixed number of them, each as a weight that fades.

Forward decay (Cormode et al., ICDE 2009): a hit counts 2^(age of the world / half-life), so that nothing kept has to be
touched as time goes by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HALF_LIFE_NS: Final = 300_000_000_000
KEPT: Final = 256
_REBASE: Final = 64.0  # half-lives: long before a float runs out


@dataclass(slots=True)
class Hot:
    """A prefix, by the digest of its last block."""

    tokens: int
    weight: float
    since_ns: int
    last_ns: int


class HotPrefixes:
    """The most used of those that were seen; a new one takes the place of the least used."""

    def __init__(self) -> None:
        self._known: dict[bytes, Hot] = {}
        self._origin_ns = 0

    def __len__(self) -> int:
        return len(self._known)

    def hit(self, digest: bytes, tokens: int, now: int) -> None:
        """A request begins with it, and need not compute it."""
        weight = self._weight(now)
        known = self._known.get(digest)
        if known is not None:
            known.weight += weight
            known.last_ns = now
            return
        if len(self._known) >= KEPT:
            del self._known[min(self._known, key=lambda each: self._known[each].weight)]
        self._known[digest] = Hot(tokens, weight, now, now)

    def top(self, count: int, now: int) -> list[tuple[bytes, Hot, float]]:
        """(digest, prefix, hits as of now), most computation saved first."""
        unit = self._weight(now)
        best = sorted(self._known.items(), key=lambda item: -item[1].weight * item[1].tokens)[:count]
        return [(digest, hot, hot.weight / unit) for digest, hot in best]

    def _weight(self, now: int) -> float:
        """Of a hit now."""
        self._origin_ns = self._origin_ns or now
        age = (now - self._origin_ns) / HALF_LIFE_NS
        if age > _REBASE:
            for hot in self._known.values():
                hot.weight *= 2.0**-age
            self._origin_ns, age = now, 0.0
        return float(2.0**age)
