"""Parts of conversations by consistent hashing: weighted rendezvous. Pure.

Each model draws a number from the conversation's hash and its own name; the largest wins. So a conversation keeps its
model with no table at all, in every process alike, and a change of one weight moves only what that model gains or
loses. The scaling of the draw is Schindelhauer's and Schomaker's logarithmic method ("Weighted distributed hash
tables", SPAA 2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import xxhash

_SPAN = float(1 << 53)


def share(number: int, salt: str) -> float:
    """Uniform in (0, 1), from 64 bits; independent for each salt."""
    return ((xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed=_seed(salt)) >> 11) + 0.5) / _SPAN


def ranked(session: int, weights: Iterable[tuple[str, float]]) -> list[str]:
    """Names by who wins a conversation, the winner first, those of no weight left out. Of many conversations a name
    wins its weight's part; where it is taken away its conversations go to the others by theirs."""
    drawn = [(math.log(share(session, name)) / weight, name) for name, weight in weights if weight > 0]
    return [name for _, name in sorted(drawn, reverse=True)]


@lru_cache(4096)
def _seed(salt: str) -> int:
    return xxhash.xxh3_64_intdigest(salt.encode())
