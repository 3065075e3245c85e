"""operator <-> an ingress, at its control door: the cache of the host. Any ingress answers for all of them, as they
share one file. Tags 170 to 179 of the control conversation."""

from __future__ import annotations

import msgspec


class GetCache(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=170):
    """What is kept, and what has it saved?"""

    rid: int


class GetCacheReport(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=171):
    """What would be, or was, matched by meaning in a namespace. Operators only: the answer has questions in it."""

    rid: int
    space: str
    limit: int = 20


class FlushCache(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=172):
    """Serve nothing any more that is kept in a namespace; empty is all of them."""

    rid: int
    space: str = ""
    reason: str = ""


class CalibrateCache(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=173):
    """Choose the threshold of a namespace by what was seen in it, and serve from there on. With `off`, stop instead.

    Attributes:
        budget: share of wrong hits that is tolerated; 0 takes the configured one.
    """

    rid: int
    space: str
    budget: float = 0.0
    off: bool = False
    reason: str = ""


class CacheSpace(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One namespace.

    Attributes:
        semantic: as configured; `state` is what holds: "off", "shadow", "on", or why it was switched off.
        counts: (name, value), since the run directory was made.
        threshold, bound: of the calibration; 0 and 1 where there is none.
        saved_cost: of the computing that hits saved, at the price of a core second; 0 where none is configured.
    """

    name: str
    entries: int
    bytes: int
    semantic: str
    state: str
    counts: tuple[tuple[str, int], ...]
    threshold: float = 0.0
    bound: float = 1.0
    saved_cost: float = 0.0


class CacheStatus(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=174):
    """Answer to `GetCache`."""

    rid: int
    bytes: int
    max_bytes: int
    spaces: tuple[CacheSpace, ...]
    currency: str = ""
    problem: str = ""


class CacheStep(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A threshold: how many of the observations it serves, how many of those wrongly, and what bounds the share."""

    threshold: float
    served: int
    wrong: int
    bound: float


class CachePair(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A question, the one that it was matched with, and whether their answers agreed."""

    at_ms: int
    kind: str
    score: float
    similarity: float
    agree: bool
    asked: str
    known: str


class CacheReport(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=175):
    """Answer to `GetCacheReport`.

    Attributes:
        observations: in all; `pairs` are the newest.
        needed: observations without a wrong one that the budget takes.
    """

    rid: int
    space: str
    observations: int
    budget: float
    needed: int
    steps: tuple[CacheStep, ...]
    pairs: tuple[CachePair, ...]
