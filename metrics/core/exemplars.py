"""For each latency bucket of a model, the last request that fell into it: from a slow bucket to the request's timeline.

They are taken from timelines that are here anyway, so nobody who serves a request does anything for them. Values are
those of the timeline; the histogram's own are measured by the scheduler between the same two events.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from bus.messages.telemetry import TimelineEvent, TimelineKind
from bus.telemetry import LATENCY_BOUNDS
from metrics.core.traces import trace_id

MAX_MODELS: Final = 256
# Instrument, and the events between which it measures.
_SPANS: Final[tuple[tuple[str, TimelineKind, TimelineKind], ...]] = (
    ("headrace_ttft_seconds", "received", "first_token"),
    ("headrace_queue_seconds", "queued", "admitted"),
    ("headrace_e2e_seconds", "received", "finished"),
)
_GAPS: Final = "headrace_inter_token_seconds"


class Exemplar(NamedTuple):
    """One observation. `at_ns` is CLOCK_MONOTONIC."""

    request: int
    trace: str
    value: float
    at_ns: int


class Exemplars:
    """The latest by instrument, model and bucket of `LATENCY_BOUNDS`."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, dict[int, Exemplar]]] = {}

    def take(self, request: int, model: str, events: Iterable[TimelineEvent]) -> None:
        """A request has ended."""
        if model not in self._found and len(self._found) >= MAX_MODELS:
            return
        listed = tuple(events)
        trace = trace_id(request, listed)
        for name, value, at_ns in _observations(listed):
            buckets = self._found.setdefault(model, {}).setdefault(name, {})
            buckets[bisect_left(LATENCY_BOUNDS, value)] = Exemplar(request, trace, value, at_ns)

    def of(self, name: str, model: str, bounds: tuple[float, ...]) -> dict[int, Exemplar]:
        """By bucket of an instrument with these bounds."""
        known = self._found.get(model, {}).get(name, {})
        return {bisect_left(bounds, each.value): each for each in sorted(known.values(), key=lambda each: each.at_ns)}


def _observations(events: tuple[TimelineEvent, ...]) -> Iterator[tuple[str, float, int]]:
    first: dict[str, int] = {}
    for event in events:
        first.setdefault(event.kind, event.at_ns)
        if event.kind == "stalled":
            yield _GAPS, event.value / 1e9, event.at_ns
    for name, begin, end in _SPANS:
        if begin in first and first.get(end, 0) >= first[begin]:
            yield name, (first[end] - first[begin]) / 1e9, first[end]
