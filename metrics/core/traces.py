"""Spans of a request, made of its timeline after its end. Pure; sending them is `metrics.tracing`'s.

    request ─┬─ queue      from the scheduler's acceptance to a slot
             ├─ prefill    from there to the first token, its chunks as events
             └─ decode     from there to the end, stalls and resumptions as events

Ids are made of the request's id, so spans that are made twice are the same spans, and a trace can be found from a
request. The client's `traceparent` comes with the events; without one the request begins a trace of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from bus.messages.telemetry import TimelineEvent

_SAMPLED: Final = 1
_CARRIES_TRACEPARENT: Final = ("received", "queued")
_LENGTH: Final = 55
_ENDS: Final = ("finished", "aborted", "refused")
_PARTS: Final = (("queue", "queued"), ("prefill", "admitted"), ("decode", "first_token"))  # and how each begins
_WORTH_TELLING: Final = ("held", "hit", "chunk", "preempted", "resumed", "stalled")
MAX_EVENTS: Final = 128  # of one span

Value = str | int | float | bool


class Moment(NamedTuple):
    """Something that happened within a span."""

    name: str
    at_ns: int
    attributes: dict[str, Value]


class Span(NamedTuple):
    """One span. Times are CLOCK_MONOTONIC.

    Attributes:
        parent: id of a span; 0 where there is none. That of the request may be the client's.
        error: what went wrong; empty where nothing did.
    """

    name: str
    trace: int
    span: int
    parent: int
    begin_ns: int
    end_ns: int
    attributes: dict[str, Value]
    moments: tuple[Moment, ...] = ()
    error: str = ""


def traceparent(events: Iterable[TimelineEvent]) -> str:
    """The client's, in version 00; empty where it gave none."""
    for event in events:
        if event.kind in _CARRIES_TRACEPARENT and len(event.detail) == _LENGTH and event.detail[:3] == "00-":
            return event.detail
    return ""


def trace_id(request: int, events: Iterable[TimelineEvent]) -> str:
    """Of the trace that a request is in, as 32 hexadecimal digits."""
    given = traceparent(events)
    return given[3:35] if given else f"{_digest(request, 'trace', 16):032x}"


def wanted(request: int, events: Iterable[TimelineEvent], sample: float) -> bool:
    """Whether a request is traced: as its client says, else by chance, which is the same each time."""
    if given := traceparent(events):
        return bool(int(given[-2:], 16) & _SAMPLED)
    return _digest(request, "sample", 8) < sample * 2**64


def spans(request: int, model: str, events: Sequence[TimelineEvent]) -> list[Span]:
    """Of a request that has ended; `events` are in order of time. The request's own span is the first."""
    given = traceparent(events)
    trace = int(trace_id(request, events), 16)
    first: dict[str, TimelineEvent] = {}
    for event in events:
        first.setdefault(event.kind, event)
    ends = [event for event in events if event.kind in _ENDS]
    end = next((event for event in ends if event.kind != "refused"), ends[-1] if ends else events[-1])
    root = _digest(request, "request", 8)
    error = end.detail or end.kind if end.kind == "refused" or end.detail == "error" else ""
    whole = Span(
        "request", trace, root, int(given[36:52], 16) if given else 0, events[0].at_ns, end.at_ns,
        _attributes(request, model, first, events, end), (), error,
    )  # fmt: skip
    begun = [(name, first[kind].at_ns) for name, kind in _PARTS if kind in first]
    made = [whole]
    for index, (name, begin_ns) in enumerate(begun):
        last = index + 1 == len(begun)
        end_ns = max(begin_ns, end.at_ns if last else begun[index + 1][1])
        within = [event for event in events if begin_ns <= event.at_ns and (last or event.at_ns < end_ns)]
        moments = (Moment(event.kind, event.at_ns, _said(event)) for event in within if event.kind in _WORTH_TELLING)
        made.append(
            Span(name, trace, _digest(request, name, 8), root, begin_ns, end_ns, {}, tuple(moments)[:MAX_EVENTS])
        )
    return made


def _attributes(
    request: int, model: str, first: dict[str, TimelineEvent], events: Sequence[TimelineEvent], end: TimelineEvent
) -> dict[str, Value]:
    """After OpenTelemetry's conventions for generative AI, where they have a name."""
    counted = max((event.value for event in events if event.kind in ("finished", "aborted")), default=0)
    reason = (end.detail or end.kind) if end.kind == "finished" else end.kind
    found: dict[str, Value] = {
        "gen_ai.provider.name": "headrace",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": model,
        "gen_ai.response.finish_reasons": reason,
        "gen_ai.usage.output_tokens": counted,
        "headrace.request": f"{request:016x}",
    }
    if "tokenized" in first:
        found["gen_ai.usage.input_tokens"] = first["tokenized"].value
    if "hit" in first:
        found["headrace.cached_tokens"] = first["hit"].value
    if "admitted" in first:
        found["headrace.replica"] = first["admitted"].value
    return found


def _said(event: TimelineEvent) -> dict[str, Value]:
    said: dict[str, Value] = {"value": event.value} if event.value else {}
    if event.step:
        said["step"] = event.step
    if event.detail and len(event.detail) != _LENGTH:
        said["detail"] = event.detail
    return said


def _digest(request: int, what: str, size: int) -> int:
    """Never 0: such an id would name nothing."""
    return int.from_bytes(blake2b(f"{request} {what}".encode(), digest_size=size).digest()) or 1
