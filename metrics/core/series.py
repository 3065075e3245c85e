"""Every instrument of every process: totals that survive restarts, and what was added in a window of time.

A process counts from zero again after a restart. Here the last value of each dead incarnation is carried over, so
totals never fall while this process lives. Which incarnation is the newest is `fleet`'s to say.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from bus.messages.telemetry import InstrumentKind, Series
from metrics.core.histograms import Bounds, Buckets, added, is_histogram, merged, quantile, removed

WINDOW_NS: Final = 10_000_000_000
MAX_SERIES: Final = 2_000  # per process; label values from requests must not fill the memory
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]


class Reading(NamedTuple):
    """A cumulative value: a counter's count, or a histogram's sum with its buckets."""

    value: float = 0.0
    buckets: Buckets = ()

    def plus(self, other: Reading) -> Reading:
        """Both together."""
        return Reading(self.value + other.value, added(self.buckets, other.buckets))

    def minus(self, other: Reading) -> Reading:
        """What came after `other`."""
        return Reading(self.value - other.value, removed(self.buckets, other.buckets))

    def fell_since(self, earlier: Reading) -> bool:
        """Whether this cannot be a later reading of the same incarnation."""
        if self.buckets and earlier.buckets:
            return any(now < then for now, then in zip(self.buckets, earlier.buckets, strict=True))
        return self.value < earlier.value


class Track:
    """One instrument of one process, over all its incarnations.

    Attributes:
        points: (time, total) as steps: a total holds until the next point. One point is older than the window.
    """

    __slots__ = ("bounds", "carried", "kind", "last", "points")

    def __init__(self, kind: InstrumentKind, bounds: Bounds, baseline: Reading, since_ns: int) -> None:
        self.kind, self.bounds = kind, bounds
        self.carried = Reading()
        self.last = Reading()
        self.points: deque[tuple[int, Reading]] = deque([(since_ns, baseline)])

    def total(self) -> Reading:
        """Over all incarnations."""
        return self.carried.plus(self.last)

    def take(self, reading: Reading, now_ns: int) -> None:
        """A newer reading of the present incarnation. One that fell is a reset at the source."""
        if self.kind != "gauge" and reading.fell_since(self.last):
            self.carry()
        changed = reading != self.last
        self.last = reading
        if changed and self.kind != "gauge":
            self.points.append((now_ns, self.total()))
            while len(self.points) > 2 and self.points[1][0] <= now_ns - WINDOW_NS:
                self.points.popleft()

    def carry(self) -> None:
        """The present incarnation is over."""
        self.carried, self.last = self.total(), Reading()

    def added_since(self, then_ns: int) -> Reading:
        """What came after `then_ns`."""
        base = self.points[0][1]
        for at, total in self.points:
            if at > then_ns:
                break
            base = total
        return self.total().minus(base)


class SeriesStore:
    """All tracks, found by instrument name.

    Attributes:
        refused: series that were not taken: malformed, of another kind than before, or too many.
    """

    def __init__(self) -> None:
        self._tracks: dict[str, dict[tuple[str, Labels], Track]] = {}
        self._counts: dict[str, int] = {}
        self.refused = 0

    def take(self, process: str, series: Series, now_ns: int, zero_at_ns: int | None) -> None:
        """A reading of the present incarnation of `process`.

        Args:
            zero_at_ns: when an instrument that is new here was certainly at zero; None where it may have counted
                before anyone looked, so that its first value belongs to no window.
        """
        if not _acceptable(series):
            self.refused += 1
            return
        reading = Reading(series.value, series.buckets)
        track = self._track(process, series, reading, now_ns, zero_at_ns)
        if track is None:
            self.refused += 1
        else:
            track.take(reading, now_ns)

    def _track(
        self, process: str, series: Series, reading: Reading, now_ns: int, zero_at_ns: int | None
    ) -> Track | None:
        family = self._tracks.setdefault(series.name, {})
        key = (process, series.labels)
        track = family.get(key)
        if track is None:
            other = next(iter(family.values()), None)
            if self._counts.get(process, 0) >= MAX_SERIES or (other and other.kind != series.kind):
                return None
            self._counts[process] = self._counts.get(process, 0) + 1
        elif track.kind != series.kind:
            return None
        elif track.bounds == series.bounds:
            return track
        # New, or with other bounds than the incarnation before had: those counts cannot be carried over.
        known = zero_at_ns is not None
        baseline = Reading(0.0, tuple(0 for _ in series.buckets)) if known else reading
        track = Track(series.kind, series.bounds, baseline, zero_at_ns if zero_at_ns is not None else now_ns)
        family[key] = track
        return track

    def restarted(self, process: str) -> None:
        """A new incarnation: its counters start over, its gauges say nothing yet."""
        for _, track in self._of(process):
            track.carry()
        self.drop_gauges(process)

    def drop_gauges(self, process: str) -> None:
        """The process is not there: what it was is history, what it counted stays."""
        self._remove(process, gauges_only=True)

    def forget(self, process: str) -> None:
        """Nothing of it is kept."""
        self._remove(process, gauges_only=False)

    def _remove(self, process: str, *, gauges_only: bool) -> None:
        for name, family in list(self._tracks.items()):
            for key in [k for k, t in family.items() if k[0] == process and (t.kind == "gauge" or not gauges_only)]:
                del family[key]
                self._counts[process] -= 1
            if not family:
                del self._tracks[name]
        if not self._counts.get(process):
            self._counts.pop(process, None)

    def _of(self, process: str) -> Iterator[tuple[str, Track]]:
        for name, family in self._tracks.items():
            for (owner, _), track in family.items():
                if owner == process:
                    yield name, track

    def families(self) -> Iterator[tuple[str, InstrumentKind, list[tuple[str, Labels, Track]]]]:
        """(name, kind, [(process, labels, track)]), by name."""
        for name in sorted(self._tracks):
            rows = [(process, labels, track) for (process, labels), track in sorted(self._tracks[name].items())]
            yield name, rows[0][2].kind, rows

    def _matching(self, name: str, **labels: str) -> Iterator[tuple[Labels, Track]]:
        wanted = set(labels.items())
        for (_, has), track in self._tracks.get(name, {}).items():
            if wanted.issubset(has):
                yield has, track

    def gauge(self, name: str, **labels: str) -> float:
        """Sum of a gauge over processes, and over labels that are not given."""
        return sum(track.last.value for _, track in self._matching(name, **labels))

    def largest(self, name: str, **labels: str) -> float:
        """Largest value of a gauge; 0 where there is none."""
        return max((track.last.value for _, track in self._matching(name, **labels)), default=0.0)

    def label_values(self, label: str, *names: str) -> set[str]:
        """Every value that a label has on these instruments."""
        return {
            value for name in names for _, labels in self._tracks.get(name, {}) for key, value in labels if key == label
        }

    def added(self, name: str, now_ns: int, **labels: str) -> float:
        """What counters (or sums of histograms) gained in the window, over processes."""
        return sum(track.added_since(now_ns - WINDOW_NS).value for _, track in self._matching(name, **labels))

    def added_by_process(self, name: str, now_ns: int, **labels: str) -> dict[str, Reading]:
        """The same, apart: a histogram's sum and buckets of the window, or a counter's value, of each process."""
        wanted = set(labels.items())
        gained: dict[str, Reading] = {}
        for (process, has), track in self._tracks.get(name, {}).items():
            if wanted.issubset(has):
                gained[process] = gained.get(process, Reading()).plus(track.added_since(now_ns - WINDOW_NS))
        return gained

    def bounds(self, name: str) -> dict[str, Bounds]:
        """Of a histogram, of each process."""
        return {process: track.bounds for (process, _), track in self._tracks.get(name, {}).items()}

    def total(self, name: str, **labels: str) -> float:
        """What counters came to since this process began to watch, over processes and their incarnations."""
        return sum(track.total().value for _, track in self._matching(name, **labels))

    def quantiles(self, name: str, now_ns: int, qs: tuple[float, ...], **labels: str) -> tuple[float, ...]:
        """Quantiles of the observations in the window, of all processes' histograms merged."""
        bounds, buckets = merged(
            (track.bounds, track.added_since(now_ns - WINDOW_NS).buckets) for _, track in self._matching(name, **labels)
        )
        return tuple(quantile(q, bounds, buckets) for q in qs)


def _acceptable(series: Series) -> bool:
    if _NAME.fullmatch(series.name) is None or any(_LABEL.fullmatch(key) is None for key, _ in series.labels):
        return False
    if not math.isfinite(series.value):
        return False
    if series.kind == "histogram":
        return is_histogram(series.bounds, series.buckets)
    return not series.bounds and not series.buckets and (series.kind == "gauge" or series.value >= 0)
