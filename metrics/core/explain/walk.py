"""From events to spans: every nanosecond of a request's life belongs to one, and none overlap. Pure.

A request is in one of a few conditions at a time; an event ends one and begins the next. What a condition was spent on
is told by the event that began it (a wait and its cause), by the one that ended it (parsing, tokenising), or by the
steps of that time (`prefill`, `gaps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import structs

from bus.messages.observe import Phase, Span
from bus.messages.telemetry import TimelineEvent, TimelineKind
from metrics.core.explain import words
from metrics.core.explain.gaps import gap
from metrics.core.explain.prefill import prefill
from metrics.core.step_ring import ReplicaSteps

SLOW_NS: Final = 100_000_000  # a wait of so long, or of a tenth of the whole where that is more, is what to look at
SLOW_SHARE: Final = 0.1
CHECKED_NS: Final = 5_000_000  # an ingress that waits for its scheduler waits longer than this
NO_STEPS: Final = ReplicaSteps()

# Work of an ingress, named by the event that ends it.
_INGRESS: Final[dict[TimelineKind, tuple[str, str]]] = {
    "parsed": ("parse", "read and checked the request"),
    "rendered": ("template", "rendered the chat template"),
    "tokenized": ("tokenise", "made token ids"),
    "submitted": ("scheduler-wait", words.WAITS["scheduler-wait"]),
    "queued": ("submit", "handed it to its scheduler"),
}
_ENDS: Final[frozenset[TimelineKind]] = frozenset({"aborted", "refused", "delivered"})
_ASIDE: Final[frozenset[TimelineKind]] = frozenset({"named", "called", "hit", "chunk", "stalled"})  # end no condition


@dataclass(slots=True)
class _Condition:
    """What a request is in since `since_ns`."""

    phase: Phase
    cause: str
    text: str
    since_ns: int
    others: tuple[int, ...] = ()
    chunks: list[TimelineEvent] = field(default_factory=list)
    gaps: list[TimelineEvent] = field(default_factory=list)


def explain(events: Sequence[TimelineEvent], steps: ReplicaSteps = NO_STEPS, now_ns: int = 0) -> tuple[Span, ...]:
    """The account of a request's time, in order.

    Args:
        events: all that are known of it, in order of time.
        steps: of its model.
        now_ns: ends the account of one that is in hand.
    """
    if not events:
        return ()
    spans: list[Span] = []
    condition = _Condition("ingress", "parse", "read the request", events[0].at_ns)
    for event in events:
        if event.kind in _ASIDE:
            _aside(condition, event, spans)
        elif (following := _next(condition, event)) is not None:
            spans += _close(condition, event.at_ns, event, steps)
            condition = following
    if not has_ended(events):
        spans += _close(condition, max(now_ns, events[-1].at_ns), None, steps)
    return tuple(_judged(_contiguous(spans)))


def has_ended(events: Sequence[TimelineEvent]) -> bool:
    """Whether nothing more will be told of it that takes time. A refusal is the end only where nothing came after."""
    last = events[-1].kind if events else "received"
    return last in _ENDS or any(event.kind in ("finished", "aborted") for event in events)


def _next(now: _Condition, event: TimelineEvent) -> _Condition | None:
    """What an event begins; None where it changes nothing."""
    at = event.at_ns
    match event.kind:
        case "received" | "parsed" | "rendered" | "tokenized":
            return _Condition("ingress", now.cause, "in its ingress", at)
        case "submitted":
            return _Condition("ingress", "submit", "on its way to the scheduler", at)
        case "queued":
            before = f", {event.value} before it" if event.value else ""
            return _Condition("queue", "turn", f"waited its turn{before}", at)
        case "held" if now.phase == "recovery" and event.detail == "replica":
            return _Condition("recovery", now.cause, f"{now.text}, and no replica was ready until one was back", at)
        case "held":
            recovering = now.phase == "recovery"
            phase: Phase = "recovery" if recovering else "queue"
            return _Condition(
                phase, event.detail, words.wait(event.detail, event.value, event.others), at, event.others
            )
        case "admitted":
            return _Condition("prefill", "steps", "had a slot", at)
        case "first_token":
            return _Condition("decode", "decode", "decoded", at)
        case "preempted":
            whom = f" to {words.named(event.others)}" if event.others else ""
            return _Condition("queue", "preempted", f"gave its {event.detail}{whom}, to go on later", at, event.others)
        case "resumed" if now.cause == "scheduler-lost" and not event.detail:
            return None  # the ingress submits it again: it is still to be taken
        case "resumed":
            cause = now.cause if now.phase == "recovery" else "worker-lost"
            return _Condition("recovery", cause, event.detail or "taken up again", at)
        case "orphaned":
            return _Condition("recovery", "scheduler-lost", f"its scheduler went away: {event.detail}", at)
        case "adopted":
            return _Condition("recovery", "ingress-lost", "another ingress took it over", at)
        case "refused":
            return _Condition("queue", "refused", words.WAITS["refused"], at)
        case "finished" | "aborted":
            return _Condition("delivery", "text", "made the last text", at) if now.phase != "delivery" else None
        case "told":
            return _Condition("delivery", "write", "wrote to the client", at)
        case "delivered":
            return _Condition("delivery", "write", "had written to the client", at)
    return None


def _aside(condition: _Condition, event: TimelineEvent, spans: list[Span]) -> None:
    if event.kind == "chunk":
        condition.chunks.append(event)
    elif event.kind == "stalled" and event.at_ns - event.value < condition.since_ns:
        _reclaim(spans, event.at_ns - event.value)
    elif event.kind == "stalled":
        condition.gaps.append(event)
    elif event.kind == "hit":
        tier = event.detail or "memory"
        text = f"found {event.value:,} tokens in {tier} instead of computing them"
        at = max(condition.since_ns, spans[-1].end_ns if spans else condition.since_ns)
        spans.append(Span("prefill", "hit", at, at, text))


def _reclaim(spans: list[Span], last_token_ns: int) -> None:
    """What was taken for decoding, and no token came of, because somebody died in the middle of a step."""
    for index in range(len(spans) - 1, 0, -1):
        decoded, lost = spans[index - 1], spans[index]
        if lost.phase == "recovery" and decoded.phase == "decode" and decoded.begin_ns <= last_token_ns < lost.begin_ns:
            kept = structs.replace(decoded, end_ns=last_token_ns)
            spans[index - 1 : index + 1] = [kept, structs.replace(lost, begin_ns=last_token_ns)]
            return


def _close(condition: _Condition, until_ns: int, ended_by: TimelineEvent | None, steps: ReplicaSteps) -> Iterator[Span]:
    begin, phase, cause, text = condition.since_ns, condition.phase, condition.cause, condition.text
    if phase == "prefill":
        yield from prefill(condition.chunks, begin, until_ns, steps)
        return
    if phase == "decode":
        if ended_by is not None and ended_by.kind == "finished":
            condition.text = f"decoded, {ended_by.value:,} tokens in all"
        yield from _decoded(condition, until_ns, steps)
        return
    if phase == "ingress" and ended_by is not None and ended_by.kind in _INGRESS:
        cause, text = _INGRESS[ended_by.kind]
        if cause == "scheduler-wait" and until_ns - begin < CHECKED_NS:
            cause, text = "submit", "checked that it fits the model"
    elif ended_by is not None and ended_by.kind == "delivered" and ended_by.value > (until_ns - begin) // 2:
        cause, text = "client", f"the client read slowly: it was waited for {words.span(ended_by.value)} in all"
    yield Span(phase, cause, begin, until_ns, text, requests=condition.others)


def _decoded(condition: _Condition, until_ns: int, steps: ReplicaSteps) -> Iterator[Span]:
    """Tokens at their pace, and the pauses between."""
    at = condition.since_ns
    for event in condition.gaps:
        begin, end = max(at, event.at_ns - event.value), min(event.at_ns, until_ns)
        if end <= begin:
            continue
        if begin > at:
            yield Span("decode", "decode", at, begin, condition.text)
        yield gap(event, begin, end, steps)
        at = end
    if at < until_ns:
        yield Span("decode", "decode", at, until_ns, condition.text)


def _contiguous(spans: list[Span]) -> Iterator[Span]:
    """Clocks of processes are one, but events of one moment may come in either order: no span begins before the one
    before it ended."""
    at = spans[0].begin_ns if spans else 0
    for one in spans:
        begin, end = at, max(at, one.end_ns)
        if end > begin or one.cause == "hit":
            yield structs.replace(one, begin_ns=begin, end_ns=end)
        at = end


def _judged(spans: Iterator[Span]) -> Iterator[Span]:
    found = list(spans)
    whole = found[-1].end_ns - found[0].begin_ns if found else 0
    limit = max(SLOW_NS, SLOW_SHARE * whole)
    for one in found:
        length = one.end_ns - one.begin_ns
        slow = one.slow or (one.cause not in words.WORK and length >= limit)
        yield structs.replace(one, slow=slow)
