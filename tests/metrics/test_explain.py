"""Why a request took as long as it did: the account is whole, and each wait has the cause that it had."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from bus.messages.observe import Span
from bus.messages.telemetry import HeldFor, TimelineEvent, TimelineKind
from bus.messages.vitals import StepBound, StepLine
from metrics.core.explain import explain, has_ended, verdict
from metrics.core.explain.words import WAITS, in_short
from metrics.core.step_ring import MAX_STEPS, ReplicaSteps

MS = 1_000_000
ME, OTHER = 0xAAAA, 0xBBBB


def event(at_ms: float, kind: str, value: int = 0, detail: str = "", step: int = 0, *others: int) -> TimelineEvent:
    return TimelineEvent(ME, int(at_ms * MS), kind, value, step, detail, 0, others)  # type: ignore[arg-type]


def step(number: int, at_ms: float, ran_ms: float = 20, **more: object) -> StepLine:
    """A step that ended at `at_ms` and ran as long as its model says."""
    fields: dict[str, object] = {
        "replica": 0, "step": number, "at_ns": int(at_ms * MS), "ran_ns": int(ran_ms * MS),
        "predicted_ns": int(ran_ms * MS), "waited_ns": 0, "plan_ns": 0, "apply_ns": 0, "gather_ns": 0, "rows": 4,
        "decodes": 4, "prefill_tokens": 0, "chunk_count": 0, "chunks": (), "waiting": 0, "starved": 0,
        "bound": "demand",
    }  # fmt: skip
    return StepLine(**{**fields, **more})  # type: ignore[arg-type]


def steps(*lines: StepLine) -> ReplicaSteps:
    known = ReplicaSteps()
    for line in lines:
        known.add(line)
    return known


def causes(spans: tuple[Span, ...]) -> list[tuple[str, int]]:
    """(cause, ms)"""
    return [(span.cause, (span.end_ns - span.begin_ns) // MS) for span in spans]


KINDS = st.sampled_from(get_args(TimelineKind))
EVENTS = st.lists(
    st.builds(
        TimelineEvent, st.just(ME), st.integers(0, 10_000), KINDS, st.integers(0, 3_000), st.integers(0, 30),
        st.sampled_from(["", *get_args(HeldFor)]), st.integers(-1, 1),
        st.lists(st.integers(1, 9), max_size=3).map(tuple),
    ),
    max_size=30,
).map(lambda events: sorted(events, key=lambda event: event.at_ns))  # fmt: skip
LINES = st.lists(
    st.builds(
        step, st.integers(0, 30), st.floats(0, 0.01), st.floats(0, 0.003), replica=st.integers(0, 1),
        predicted_ns=st.integers(0, 4_000), waited_ns=st.integers(0, 4_000), starved=st.integers(0, 2),
        chunks=st.lists(st.tuples(st.sampled_from([ME, OTHER]), st.integers(1, 99)), max_size=3).map(tuple),
        bound=st.sampled_from(get_args(StepBound)),
    ),
    max_size=30,
)  # fmt: skip


@given(EVENTS, LINES, st.integers(0, 20_000))
def test_every_nanosecond_belongs_to_one_span(events: list[TimelineEvent], lines: list[StepLine], now: int) -> None:
    """For any events in any order and any steps: spans are in order, do not overlap, leave nothing out."""
    spans = explain(events, steps(*sorted(lines, key=lambda line: line.at_ns)), now)
    if not spans:
        return
    assert spans[0].begin_ns == events[0].at_ns
    assert all(left.end_ns == right.begin_ns for left, right in pairwise(spans))
    assert all(span.begin_ns <= span.end_ns for span in spans)
    assert all(span.text for span in spans)
    assert spans[-1].end_ns <= max(now, events[-1].at_ns)
    if not has_ended(events) and max(now, events[-1].at_ns) > events[0].at_ns:
        assert spans[-1].end_ns == max(now, events[-1].at_ns)
    assert verdict(spans, ended=True) or spans[-1].end_ns == spans[0].begin_ns


def test_every_reason_of_a_scheduler_to_hold_a_request_has_words() -> None:
    for why in get_args(HeldFor):
        assert why in WAITS
        assert in_short(why) != why


STORY = (
    event(0, "received"), event(1, "parsed"), event(3, "rendered"), event(8, "tokenized", 640), event(9, "submitted"),
    event(10, "queued", 2), event(30, "held", 4, "slots", 0, OTHER), event(90, "held", 41, "pages", 0, OTHER),
    event(200, "admitted"), event(200, "hit", 128, "memory"), event(200, "hit", 256, "disk"),
    event(200, "chunk", 200, step=7), event(205, "chunk", 56, step=8), event(270, "first_token", step=8),
    event(900, "finished", 30, "length"), event(902, "told", 3 * MS), event(903, "delivered", 0),
)  # fmt: skip


def test_a_request_is_told_from_the_first_byte_to_the_last() -> None:
    chunks = ((ME, 200), (OTHER, 64))
    spans = explain(STORY, steps(step(7, 240, 35, chunks=chunks, prefill_tokens=264), step(8, 268, 25)))
    assert causes(spans) == [
        ("parse", 1), ("template", 2), ("tokenise", 5), ("submit", 1), ("submit", 1), ("turn", 20),
        ("slots", 60), ("pages", 110), ("hit", 0), ("hit", 0), ("chunk", 40), ("chunk", 30), ("decode", 630),
        ("text", 2), ("write", 1),
    ]  # fmt: skip
    by_cause = {span.cause: span for span in spans}
    assert by_cause["pages"].requests == (OTHER,)
    assert by_cause["pages"].slow
    assert "41 pages" in by_cause["pages"].text
    first = next(span for span in spans if span.cause == "chunk")
    assert (first.step, first.requests) == (7, (OTHER,))
    assert "64 of 0000bbbb" in first.text
    assert "4 decodes" in first.text


def test_the_verdict_names_what_took_longest_and_the_worst_wait() -> None:
    told = verdict(explain(STORY), ended=True)
    assert told.startswith("630 ms of 903 ms went into decoding, 110 ms into waiting for pages")


def decoding(*events: TimelineEvent) -> tuple[TimelineEvent, ...]:
    return (event(0, "admitted"), event(10, "first_token", step=1), *events, event(2000, "finished", 40, "length"))


def the_gap(known: ReplicaSteps) -> Span:
    (found,) = [
        span for span in explain(decoding(event(800, "stalled", 300 * MS, step=9)), known) if span.begin_ns == 500 * MS
    ]
    assert found.end_ns == 800 * MS
    assert found.slow
    return found


def test_a_step_that_was_planned_behind_another_is_told_apart_from_it() -> None:
    events = decoding_of(event(0, "admitted"), event(0, "chunk", 300, step=5), event(900, "first_token", step=5))
    known = steps(step(4, 500, 490, chunks=((OTHER, 512),)), step(5, 899, 390))
    spans = explain(events, known)
    assert causes(spans)[:2] == [("steps", 509), ("chunk", 391)]
    assert spans[0].requests == (OTHER,)
    assert "step 4 still ran" in spans[0].text


def decoding_of(*events: TimelineEvent) -> tuple[TimelineEvent, ...]:
    return (*events, event(2000, "finished", 40, "length"))


def test_a_gap_is_put_down_to_the_prompt_that_was_in_its_step() -> None:
    chunk = {"chunks": ((OTHER, 512),), "prefill_tokens": 512}
    gap = the_gap(steps(step(8, 520), step(9, 799, 280, **chunk)))
    assert (gap.cause, gap.step, gap.requests) == ("prompts", 9, (OTHER,))
    assert "512 tokens of 0000bbbb" in gap.text


def test_a_gap_is_put_down_to_a_step_far_off_its_model() -> None:
    gap = the_gap(steps(step(8, 520), step(9, 799, 280, predicted_ns=20 * MS)))
    assert (gap.cause, gap.step) == ("slow-step", 9)
    assert "20 ms were expected" in gap.text


def test_a_prompt_in_a_step_that_was_slow_for_another_reason_is_not_blamed() -> None:
    chunk = {"chunks": ((OTHER, 16),), "prefill_tokens": 16}
    assert the_gap(steps(step(9, 799, 280, predicted_ns=20 * MS, **chunk))).cause == "slow-step"


def test_a_gap_without_pages_is_told_from_its_steps() -> None:
    gap = the_gap(steps(step(6, 600, starved=2), step(7, 700, starved=2), step(9, 799)))
    assert gap.cause == "starved"


def test_a_worker_that_waits_for_plans_is_not_slow() -> None:
    assert the_gap(steps(step(9, 799, 20, waited_ns=270 * MS))).cause == "plan-late"
    assert the_gap(steps(step(9, 799, 20, gather_ns=270 * MS))).cause == "held-up"
    assert the_gap(steps(step(9, 799, 20))).cause == "unknown"
    assert the_gap(steps()).cause == "unknown"


def test_what_a_dead_worker_cost_begins_with_the_last_token_and_ends_with_the_next() -> None:
    events = decoding(
        event(500, "resumed", 12, "worker@m.0.0 died"), event(520, "held", 0, "replica"), event(1500, "admitted"),
        event(1500, "chunk", 20, step=3), event(1600, "first_token", step=3), event(1600, "stalled", 1140 * MS, step=3),
    )  # fmt: skip
    spans = explain(events)
    assert causes(spans) == [
        ("steps", 10), ("decode", 450), ("worker-lost", 60), ("worker-lost", 980), ("chunk", 100), ("decode", 400),
    ]  # fmt: skip
    assert spans[2].begin_ns == 460 * MS
    assert [span.phase for span in spans[2:4]] == ["recovery", "recovery"]
    assert all("worker@m.0.0 died" in span.text for span in spans[2:4])


def test_a_dead_scheduler_is_recovery_until_its_successor_has_taken_the_request() -> None:
    events = decoding(
        event(500, "orphaned", 0, "died"), event(1100, "resumed"), event(1105, "resumed", 12, "submitted again"),
        event(1110, "admitted"), event(1150, "first_token", step=3),
    )  # fmt: skip
    assert causes(explain(events))[1:] == [
        ("decode", 490), ("scheduler-lost", 605), ("scheduler-lost", 5), ("steps", 40), ("decode", 850),
    ]  # fmt: skip


def test_a_preempted_request_says_for_whom() -> None:
    events = decoding(event(500, "preempted", 9, "pages", 0, OTHER), event(900, "admitted"), event(950, "first_token"))
    (span,) = [span for span in explain(events) if span.cause == "preempted"]
    assert (span.requests, span.end_ns - span.begin_ns) == ((OTHER,), 400 * MS)


def test_a_slow_client_is_not_the_servers_time() -> None:
    ended = [*decoding(), event(2001, "told"), event(9000, "delivered", 6500 * MS)]
    spans = explain(ended)
    assert (spans[-1].phase, spans[-1].cause) == ("delivery", "client")
    assert "a client that reads slowly" in verdict(spans, ended=True)


def test_a_request_in_hand_goes_on_until_now() -> None:
    spans = explain([event(0, "received"), event(5, "queued"), event(6, "held", 3, "slots")], now_ns=900 * MS)
    assert causes(spans)[-1] == ("slots", 894)
    assert "so far" in verdict(spans, ended=False)


def test_steps_are_bounded_and_those_of_a_replaced_scheduler_are_not_mixed_in() -> None:
    known = ReplicaSteps()
    for number in range(MAX_STEPS + 10):
        known.add(step(number, number))
    assert len(known.within(0, -1, MS * (MAX_STEPS + 10))) <= MAX_STEPS
    assert known.planned_at(0, MAX_STEPS, MS * MAX_STEPS) is not None
    known.add(step(1, 5))  # late, of one that is gone
    assert known.planned_at(0, 1, 4 * MS) is None
