"""Pauses between two tokens far above the median: which step, prompt or shortage each was spent on. Pure.

The rules are tried in this order; the first that explains most of the pause is its cause.

| cause       | when                                                                        |
|-------------|-----------------------------------------------------------------------------|
| `starved`   | steps ended without it, and rows of them had no page                          |
| `prompts`   | the longest step had chunks of others in it                                   |
| `slow-step` | the longest step ran far longer than its model says: the machine was busy     |
| `plan-late` | the worker was idle, waiting for a plan                                       |
| `held-up`   | neither side computed: messages under way                                     |
| `unknown`   | no step is known of that time                                                 |
"""

from __future__ import annotations

from typing import Final

from bus.messages.observe import Span
from bus.messages.telemetry import TimelineEvent
from bus.messages.vitals import StepLine
from metrics.core.explain import words
from metrics.core.step_ring import ReplicaSteps

MOST: Final = 0.5  # of a pause: who has so much of it is its cause
MOST_NAMED: Final = 4


def gap(event: TimelineEvent, begin_ns: int, end_ns: int, steps: ReplicaSteps) -> Span:
    """A pause as one span.

    Args:
        event: "stalled", at its end.
        begin_ns, end_ns: as much of it as the request spent decoding.
    """
    seen = steps.within(event.replica, begin_ns, end_ns)
    cause, text, line, requests = _cause(event, end_ns - begin_ns, seen)
    step = line.step if line is not None else event.step
    return Span("decode", cause, begin_ns, end_ns, text, step, event.replica, requests, slow=True)


def _cause(
    event: TimelineEvent, length_ns: int, seen: list[StepLine]
) -> tuple[str, str, StepLine | None, tuple[int, ...]]:
    if not seen:
        return "unknown", "no step is known of that time", None, ()
    longest = max(seen, key=lambda line: line.ran_ns)
    skipped = [line for line in seen if line.step != event.step]
    starved = max((line.starved for line in skipped), default=0)
    if starved:
        text = f"sat out {len(skipped)} steps for want of a page ({starved} rows or more had none)"
        return "starved", text, longest, _others(skipped, event.request)
    with_prompts = [line for line in seen if any(request != event.request for request, _ in line.chunks)]
    if with_prompts and sum(line.ran_ns for line in with_prompts) >= MOST * length_ns:
        worst = max(with_prompts, key=lambda line: line.ran_ns)
        if not words.is_slow(worst):
            return "prompts", _prompts(worst, len(with_prompts), event.request), worst, _others([worst], event.request)
    if words.is_slow(longest) and longest.ran_ns >= MOST * length_ns:
        text = (
            f"step {longest.step} ran {words.span(longest.ran_ns)} where {words.span(longest.predicted_ns)} were "
            "expected: the processor was taken by others, throttled, or the worker was stopped"
        )
        return "slow-step", text, longest, ()
    waited = sum(line.waited_ns for line in seen)
    if waited >= MOST * length_ns:
        return "plan-late", f"the worker waited {words.span(waited)} for plans: the scheduler was late", longest, ()
    gather = sum(line.gather_ns for line in seen)
    if gather >= MOST * length_ns:
        return "held-up", f"messages were under way for {words.span(gather)}: a process got no CPU", longest, ()
    if longest.ran_ns >= MOST * length_ns:
        text = f"step {longest.step} ran {words.span(longest.ran_ns)} with {longest.rows} sequences"
        return "slow-step", text, longest, ()
    return "unknown", f"{len(seen)} steps ended in that time, and none of them explains it", longest, ()


def _prompts(line: StepLine, steps: int, own: int) -> str:
    chunks = ", ".join(
        f"{count:,} tokens of {words.short_id(request)}" for request, count in line.chunks if request != own
    )
    more = f" and {steps - 1} more steps" if steps > 1 else ""
    return f"step {line.step}{more} computed prompts of others: {chunks}, {words.span(line.ran_ns)} on the worker"


def _others(lines: list[StepLine], own: int) -> tuple[int, ...]:
    found = dict.fromkeys(request for line in lines for request, _ in line.chunks if request != own)
    return tuple(found)[:MOST_NAMED]
