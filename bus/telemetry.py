"""Instruments of a process, and how they reach the metrics process. Counting is cheap; publishing is twice a second.

A `Telemetry` is usable without a publisher: tests and tools count without sending.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from bus.messages.telemetry import LiveRequests, Series, TimelineEvent, ToMetrics
from bus.messages.vitals import Door

MAX_PENDING_EVENTS: Final = 20_000

# Seconds; the powers between a millisecond and ten minutes that latencies of serving fall into.
LATENCY_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0, 600.0,
)  # fmt: skip

# Histograms of one name have the same bounds in every process, or they could not be added up: `Telemetry` sees to it.
STEP_BOUNDS: Final = (
    0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.04, 0.06, 0.09, 0.13, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0, 10.0,
)  # fmt: skip
ROW_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
PHASE_BOUNDS: Final = (
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.04, 0.06, 0.09, 0.13, 0.2,
    0.3, 0.5, 0.8, 1.5, 3.0, 10.0,
)  # fmt: skip
# CPU time for one token.
TOKEN_BOUNDS: Final = tuple(us / 1e6 for us in (2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 200, 500, 1000, 10_000))
BOUNDS_OF: Final = {  # others: LATENCY_BOUNDS
    "headrace_step_seconds": STEP_BOUNDS,
    "headrace_step_rows": ROW_BOUNDS,
    "headrace_step_phase_seconds": PHASE_BOUNDS,
    "headrace_guard_seconds": PHASE_BOUNDS,
    "headrace_ingress_request_cpu_seconds": PHASE_BOUNDS,
    "headrace_ingress_token_cpu_seconds": TOKEN_BOUNDS,
}


class Counter:
    """A number that only goes up."""

    __slots__ = ("labels", "name", "value")

    def __init__(self, name: str, labels: tuple[tuple[str, str], ...]) -> None:
        self.name, self.labels, self.value = name, labels, 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more; never negative."""
        self.value += amount

    def series(self) -> Series:
        """As it is now."""
        return Series(self.name, "counter", self.labels, self.value)


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("labels", "name", "value")

    def __init__(self, name: str, labels: tuple[tuple[str, str], ...]) -> None:
        self.name, self.labels, self.value = name, labels, 0.0

    def set(self, value: float) -> None:
        """It is `value` now. A bool is a number to Python, but not on the wire."""
        self.value = float(value)

    def series(self) -> Series:
        """As it is now."""
        return Series(self.name, "gauge", self.labels, self.value)


class Histogram:
    """Observations counted by upper bound."""

    __slots__ = ("bounds", "counts", "labels", "name", "total")

    def __init__(self, name: str, labels: tuple[tuple[str, str], ...], bounds: Sequence[float]) -> None:
        self.name, self.labels, self.bounds = name, labels, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def series(self) -> Series:
        """As it is now, with cumulative buckets."""
        running, buckets = 0, []
        for count in self.counts:
            running += count
            buckets.append(running)
        return Series(self.name, "histogram", self.labels, self.total, self.bounds, tuple(buckets))


Instrument = Counter | Gauge | Histogram


class Telemetry:
    """All instruments of a process, its pending timeline events, and what it says of itself beyond them.

    Asking for the same name and labels again gives the same instrument.

    Attributes:
        doors: what its listening sockets say, by door.
        views: what else it says twice a second, where there is something; `slow_views` every two seconds.
    """

    def __init__(self) -> None:
        self._instruments: dict[tuple[str, tuple[tuple[str, str], ...]], Instrument] = {}
        self.help: dict[str, str] = {}
        self._events: list[TimelineEvent] = []
        self.live_view: Callable[[], LiveRequests] | None = None
        self.doors: dict[str, Callable[[], Door]] = {}
        self.views: list[Callable[[], ToMetrics | None]] = []
        self.slow_views: list[Callable[[], ToMetrics | None]] = []
        self.dropped_events = 0

    def counter(self, name: str, help: str, **labels: str) -> Counter:
        """The counter of that name and labels."""
        found = self._find(name, help, labels, Counter)
        assert isinstance(found, Counter), f"{name} is a {type(found).__name__}"
        return found

    def gauge(self, name: str, help: str, **labels: str) -> Gauge:
        """The gauge of that name and labels."""
        found = self._find(name, help, labels, Gauge)
        assert isinstance(found, Gauge), f"{name} is a {type(found).__name__}"
        return found

    def histogram(self, name: str, help: str, **labels: str) -> Histogram:
        """The histogram of that name and labels, with the bounds that its name has everywhere."""
        bounds = BOUNDS_OF.get(name, LATENCY_BOUNDS)
        found = self._find(name, help, labels, lambda n, ls: Histogram(n, ls, bounds))
        assert isinstance(found, Histogram), f"{name} is a {type(found).__name__}"
        return found

    def event(self, event: TimelineEvent) -> None:
        """Something happened to a request. Dropped and counted when too many are pending."""
        if len(self._events) < MAX_PENDING_EVENTS:
            self._events.append(event)
        else:
            self.dropped_events += 1

    def live(self, view: Callable[[], LiveRequests]) -> None:
        """Publish what `view` returns, twice a second."""
        self.live_view = view

    def take_events(self) -> tuple[TimelineEvent, ...]:
        """Pending events, which are then forgotten here."""
        events, self._events = tuple(self._events), []
        return events

    def series(self) -> tuple[Series, ...]:
        """All instruments as they are now."""
        return tuple(instrument.series() for instrument in self._instruments.values())

    def _find(
        self,
        name: str,
        help: str,
        labels: dict[str, str],
        make: Callable[[str, tuple[tuple[str, str], ...]], Instrument],
    ) -> Instrument:
        key = (name, tuple(sorted(labels.items())))
        found = self._instruments.get(key)
        if found is None:
            found = self._instruments[key] = make(*key)
            self.help[name] = help
        return found
