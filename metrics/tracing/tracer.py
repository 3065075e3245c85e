"""Which requests' spans are due. Two processes tell of a request's end, each in its own time: both are waited for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from bus.messages.telemetry import TimelineEvent
from metrics.core.timelines import Timelines
from metrics.core.traces import Span, spans, wanted

SETTLE_NS: Final = 1_500_000_000  # processes tell twice a second
MAX_REMEMBERED: Final = 20_000


class Tracer:
    """Makes spans of requests that have ended, once.

    Args:
        sample: share of the requests that are traced, of those whose client does not say.
        offer: takes the spans of one request.
    """

    def __init__(self, timelines: Timelines, sample: float, offer: Callable[[Sequence[Span]], None]) -> None:
        self._timelines, self._sample, self._offer = timelines, sample, offer
        self._due: OrderedDict[int, int] = OrderedDict()
        self._done: OrderedDict[int, None] = OrderedDict()

    def ended(self, request: int, now_ns: int) -> None:
        """Somebody says that it has ended."""
        if request in self._done or request in self._due:
            return
        self._due[request] = now_ns + SETTLE_NS
        if len(self._due) > MAX_REMEMBERED:
            self._make(self._due.popitem(last=False)[0])

    def tick(self, now_ns: int) -> None:
        """Make those whose time has come."""
        while self._due and next(iter(self._due.values())) <= now_ns:
            self._make(self._due.popitem(last=False)[0])

    def _make(self, request: int) -> None:
        self._done[request] = None
        if len(self._done) > MAX_REMEMBERED:
            self._done.popitem(last=False)
        events: tuple[TimelineEvent, ...] = self._timelines.events(request)
        if events and wanted(request, events, self._sample):
            self._offer(spans(request, self._timelines.model(request), events))
