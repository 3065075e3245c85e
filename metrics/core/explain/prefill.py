"""From a slot to a token: the steps that a request's chunks were in, and those that it waited for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bus.messages.observe import Span
from bus.messages.telemetry import TimelineEvent
from metrics.core.explain import words
from metrics.core.step_ring import ReplicaSteps

NOTICEABLE_NS: Final = 1_000_000
UNDER_WAY_NS: Final = 10_000_000


def prefill(chunks: Sequence[TimelineEvent], begin_ns: int, end_ns: int, steps: ReplicaSteps) -> Iterator[Span]:
    """Spans from `begin_ns`, when it had its slot, to `end_ns`, when it drew a token or left.

    Two steps are in flight, so a chunk is planned while the one before it runs: its span begins where that ended.
    """
    at = begin_ns
    for number, event in enumerate(chunks):
        planned = min(max(at, event.at_ns), end_ns)
        if planned - at > NOTICEABLE_NS:
            yield _waited(at, planned, event, steps)
            at = planned
        line = steps.planned_at(event.replica, event.step, event.at_ns)
        last = number == len(chunks) - 1
        until = end_ns if last else line.at_ns if line is not None else chunks[number + 1].at_ns
        until = min(max(until, at), end_ns)
        if line is not None and (began := min(line.at_ns - line.ran_ns - line.gather_ns, until)) - at > UNDER_WAY_NS:
            yield _behind(at, began, event, steps)
            at = began
        others = tuple(request for request, _ in line.chunks if request != event.request) if line is not None else ()
        text = words.chunk(event.value, line, event.step, event.request)
        slow = line is not None and words.is_slow(line)
        yield Span("prefill", "chunk", at, until, text, event.step, event.replica, others, slow)
        at = until
    if at < end_ns:
        yield Span("prefill", "steps", at, end_ns, "had a slot, and was in no step yet")


def _behind(begin_ns: int, end_ns: int, event: TimelineEvent, steps: ReplicaSteps) -> Span:
    """Its step was planned, and the one before it still ran."""
    seen = steps.within(event.replica, begin_ns, end_ns)
    text = f"its step {event.step} was planned, and step {event.step - 1} still ran"
    others: tuple[int, ...] = ()
    if seen and (longest := max(seen, key=lambda line: line.ran_ns)).chunks:
        others = tuple(request for request, _ in longest.chunks if request != event.request)[:4]
        text += f" with prompts of {words.named(others)}" if others else ""
    return Span("prefill", "steps", begin_ns, end_ns, text, event.step, event.replica, others)


def _waited(begin_ns: int, end_ns: int, event: TimelineEvent, steps: ReplicaSteps) -> Span:
    """It had a slot and was in no step: prompts before it filled them."""
    seen = steps.within(event.replica, begin_ns, end_ns)
    before = {request: count for line in seen for request, count in line.chunks if request != event.request}
    text = f"had a slot, and waited for step {event.step}"
    if before:
        text += f": the steps until then were full with prompts of {words.named(tuple(before)[:4])}"
    return Span("prefill", "steps", begin_ns, end_ns, text, event.step, event.replica, tuple(before)[:4])
