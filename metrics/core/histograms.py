"""Arithmetic on histograms with cumulative buckets. Numbers only: no names, no time.

A histogram is `bounds` (upper bounds, ascending) and `buckets`: cumulative counts, one per bound and a last one for
infinity, which is the number of observations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

Bounds = tuple[float, ...]
Buckets = tuple[int, ...]


def is_histogram(bounds: Bounds, buckets: Buckets) -> bool:
    """Whether the two fit together: ascending finite bounds, counts that never fall, one count more than bounds."""
    return (
        len(buckets) == len(bounds) + 1
        and all(math.isfinite(bound) for bound in bounds)
        and all(low < high for low, high in pairwise(bounds))
        and buckets[0] >= 0
        and all(low <= high for low, high in pairwise(buckets))
    )


def added(left: Buckets, right: Buckets) -> Buckets:
    """Both together. They have the same bounds; an empty one stands for no observations."""
    if not left or not right:
        return left or right
    return tuple(a + b for a, b in zip(left, right, strict=True))


def removed(whole: Buckets, part: Buckets) -> Buckets:
    """What came to `part` to make `whole`."""
    if not part:
        return whole
    return tuple(a - b for a, b in zip(whole, part, strict=True))


def merged(histograms: Iterable[tuple[Bounds, Buckets]]) -> tuple[Bounds, Buckets]:
    """All together, over the bounds that all of them share.

    Cumulative counts at a shared bound are exact whatever lies between, so processes of different versions merge
    without guessing; only resolution is lost.
    """
    given = [(bounds, buckets) for bounds, buckets in histograms if buckets]
    if not given:
        return (), ()
    shared = set(given[0][0]).intersection(*(bounds for bounds, _ in given[1:]))
    total: Buckets = ()
    for bounds, buckets in given:
        kept = tuple(count for bound, count in zip(bounds, buckets, strict=False) if bound in shared)
        total = added(total, (*kept, buckets[-1]))
    return tuple(sorted(shared)), total


def quantile(q: float, bounds: Bounds, buckets: Buckets) -> float:
    """The `q`-quantile (0 to 1), linear within its bucket from 0 up, as Prometheus' `histogram_quantile` has it.

    Observations above the last bound count as that bound; of no observations the quantile is 0.
    """
    if not buckets or buckets[-1] == 0 or not bounds:
        return 0.0
    rank = q * buckets[-1]
    low, below = 0.0, 0
    for bound, count in zip(bounds, buckets, strict=False):
        if count >= rank and count > below:
            return low + (bound - low) * max(0.0, rank - below) / (count - below)
        low, below = bound, count
    return bounds[-1]
