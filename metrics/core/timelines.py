"""Events of the last N requests, and one line about each that ended. Bounded in requests and in events per request."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from bus.messages.observe import FinishedRequest, GetTimeline
from bus.messages.telemetry import Timeline, TimelineEvent, TimelineKind

MAX_EVENTS: Final = 512  # per request; the first half of them is never dropped
MAX_FINISHED: Final = 100
ENDS: Final[tuple[TimelineKind, ...]] = ("finished", "aborted", "refused")
_SCHEDULER: Final = "scheduler@"


class _Record:
    __slots__ = ("called", "dropped", "ended", "events", "model", "response")

    def __init__(self) -> None:
        self.events: list[TimelineEvent] = []
        self.model = self.response = self.called = ""
        self.ended = False
        self.dropped = 0

    def add(self, event: TimelineEvent) -> None:
        self.events.append(event)
        if len(self.events) > MAX_EVENTS:
            del self.events[MAX_EVENTS // 2]
            self.dropped += 1
        self.ended = self.ended or event.kind in ENDS
        if event.kind == "named":
            self.response = event.detail
        elif event.kind == "called":
            self.called = event.detail


class Timelines:
    """Timelines by request id; the one that was silent longest is forgotten first.

    Args:
        limit: how many requests are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[int, _Record] = OrderedDict()
        self._finished: OrderedDict[int, FinishedRequest] = OrderedDict()
        self._responses: dict[str, list[int]] = {}
        self._called: dict[str, int] = {}  # the latest that clients call so

    def __len__(self) -> int:
        return len(self._records)

    def take(self, timeline: Timeline) -> list[int]:
        """Events from one process. Those of different processes arrive in any order. Returns the requests that have
        ended, now or before."""
        touched: dict[int, _Record] = {}
        model = timeline.name.removeprefix(_SCHEDULER) if timeline.name.startswith(_SCHEDULER) else ""
        for event in timeline.events:
            record = self._records.get(event.request)
            if record is None:
                record = self._records[event.request] = _Record()
            else:
                self._records.move_to_end(event.request)
            record.model = model or record.model
            named = record.response
            record.add(event)
            if record.response != named:
                self._responses.setdefault(record.response, []).append(event.request)
            if event.kind == "called":
                self._called[event.detail] = event.request
            touched[event.request] = record
            if len(self._records) > self._limit:
                self._forget(*self._records.popitem(last=False))
        ended = [request for request, record in touched.items() if record.ended]
        for request in ended:
            self._finish(request, touched[request])
        return ended

    def _finish(self, request: int, record: _Record) -> None:
        self._finished[request] = summary(request, record.model, record.events)
        if len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)

    def _forget(self, request: int, record: _Record) -> None:
        choices = self._responses.get(record.response, [])
        if request in choices:
            choices.remove(request)
            if not choices:
                del self._responses[record.response]
        if self._called.get(record.called) == request:
            del self._called[record.called]

    def find(self, asked: GetTimeline) -> int:
        """The request that is meant; 0 where none is known."""
        if asked.response and (choices := self._responses.get(asked.response)):
            return choices[0]
        if (called := self._called.get(asked.response)) is not None:
            return called
        if asked.request:
            return asked.request
        if asked.suffix:
            return next((request for request in reversed(self._records) if f"{request:x}".endswith(asked.suffix)), 0)
        return 0

    def whose(self, request: int) -> tuple[str, str, tuple[int, ...]]:
        """Its model, its response's id, and all choices of that."""
        record = self._records.get(request)
        if record is None:
            return "", "", ()
        return record.model, record.response, tuple(self._responses.get(record.response, ()))

    def events(self, request: int) -> tuple[TimelineEvent, ...]:
        """In order of time; empty where the request is unknown or forgotten."""
        record = self._records.get(request)
        return tuple(sorted(record.events, key=lambda event: event.at_ns)) if record else ()

    def model(self, request: int) -> str:
        """Of a request; empty where it is not known."""
        record = self._records.get(request)
        return record.model if record else ""

    def finished(self) -> tuple[FinishedRequest, ...]:
        """Those that ended, the latest first."""
        return tuple(sorted(self._finished.values(), key=lambda line: line.ended_ns, reverse=True))


def summary(request: int, model: str, events: list[TimelineEvent]) -> FinishedRequest:
    """One line about a request that ended.

    Ingress and scheduler both tell of an end: the earliest holds. A refusal is the end only where nothing came after
    it, for the ingress may have tried again.
    """
    ordered = sorted(events, key=lambda event: event.at_ns)
    ends = [event for event in ordered if event.kind in ENDS]
    end = next((event for event in ends if event.kind != "refused"), ends[-1])
    start = ordered[0].at_ns
    first = next((event.at_ns for event in ordered if event.kind == "first_token"), 0)
    return FinishedRequest(
        request=request,
        model=model,
        reason=(end.detail or end.kind) if end.kind == "finished" else end.kind,
        ended_ns=end.at_ns,
        duration_ns=end.at_ns - start,
        ttft_ns=max(0, first - start) if first else 0,
        prompt_tokens=max((event.value for event in ordered if event.kind == "tokenized"), default=0),
        cached_tokens=_found_first(ordered),
        generated_tokens=max((event.value for event in ordered if event.kind in ("finished", "aborted")), default=0),
    )


def _found_first(ordered: list[TimelineEvent]) -> int:
    """Tokens that were found when it was first placed, in whatever tier; what a resumption finds is its own again."""
    hits = [event for event in ordered if event.kind == "hit"]
    return sum(event.value for event in hits if event.at_ns == hits[0].at_ns)
