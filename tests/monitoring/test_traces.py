"""Spans of a request, and their way over OTLP/HTTP to a collector that decodes what arrives."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp import GIVEN, Collector

from bus.messages.telemetry import Timeline, TimelineEvent
from metrics.core.exemplars import Exemplars
from metrics.core.timelines import Timelines
from metrics.core.traces import spans, trace_id, traceparent, wanted
from metrics.tracing.exporter import Exporter, OtelMissing
from metrics.tracing.tracer import MAX_REMEMBERED, SETTLE_NS, Tracer

UNSAMPLED = GIVEN[:-1] + "0"
MS = 1_000_000


def life(detail: str = "", reason: str = "stop", at: int = 0) -> list[TimelineEvent]:
    """Of one request: 1 ms to be tokenised, 2 in the queue, 4 of prefill, 8 of decode."""
    kinds = [
        ("received", 0, 0, detail), ("tokenized", 1, 9, ""), ("submitted", 1, 0, ""), ("queued", 1, 3, detail),
        ("hit", 3, 4, ""), ("admitted", 3, 1, ""), ("chunk", 4, 5, ""), ("first_token", 7, 0, ""),
        ("stalled", 9, 700, ""), ("finished", 15, 6, reason),
    ]  # fmt: skip
    return [TimelineEvent(7, at + 1000 + ms * MS, kind, value, 0, said) for kind, ms, value, said in kinds]  # type: ignore[arg-type]


def test_the_parts_of_a_request_follow_each_other_and_have_it_for_a_parent() -> None:
    root, *parts = spans(7, "m", life())
    assert root.parent == 0
    assert [part.name for part in parts] == ["queue", "prefill", "decode"]
    assert [(part.end_ns - part.begin_ns) // MS for part in parts] == [2, 4, 8]
    assert {part.parent for part in parts} == {root.span}
    assert len({root.trace, *(part.trace for part in parts)}) == 1
    assert all(root.begin_ns <= part.begin_ns <= part.end_ns <= root.end_ns for part in parts)
    assert [moment.name for part in parts for moment in part.moments] == ["hit", "chunk", "stalled"]
    assert root.attributes["gen_ai.usage.input_tokens"] == 9
    assert root.attributes["gen_ai.usage.output_tokens"] == 6
    assert root.attributes["gen_ai.response.finish_reasons"] == "stop"
    assert root.attributes["headrace.cached_tokens"] == 4


def test_a_client_that_names_its_trace_is_in_it() -> None:
    root = spans(7, "m", life(GIVEN))[0]
    assert f"{root.trace:032x}" == GIVEN[3:35] == trace_id(7, life(GIVEN))
    assert f"{root.parent:016x}" == GIVEN[36:52]
    assert traceparent(life(GIVEN)[3:]) == GIVEN, "the scheduler tells it too, should the ingress's events be lost"


def test_who_is_traced_says_the_client_else_chance_that_does_not_change() -> None:
    assert wanted(7, life(GIVEN), 0.0)
    assert not wanted(7, life(UNSAMPLED), 1.0)
    share = sum(wanted(request, [], 0.25) for request in range(4000)) / 4000
    assert 0.2 < share < 0.3
    assert all(wanted(request, [], 1.0) and not wanted(request, [], 0.0) for request in range(100))


def test_errors_are_marked() -> None:
    assert spans(7, "m", life(reason="error"))[0].error == "error"
    refused = [TimelineEvent(7, 5, "received"), TimelineEvent(7, 9, "refused", detail="overloaded")]
    assert spans(7, "m", refused)[0].error == "overloaded"
    assert spans(7, "m", life())[0].error == ""


@given(order=st.permutations(range(10)), kept=st.integers(1, 10))
def test_whatever_is_lost_on_the_way_what_is_there_makes_spans(order: list[int], kept: int) -> None:
    events = sorted((life()[index] for index in order[:kept]), key=lambda event: event.at_ns)
    made = spans(7, "m", events)
    assert made[0].name == "request"
    assert all(span.begin_ns <= span.end_ns for span in made)
    assert len({span.span for span in made}) == len(made)
    assert spans(7, "m", events) == made, "made twice they are the same"


# --- exemplars -----------------------------------------------------------------------------------------------------


def test_a_latency_leads_to_the_last_request_in_its_bucket() -> None:
    exemplars = Exemplars()
    exemplars.take(7, "m", life(GIVEN))
    exemplars.take(8, "m", [*life(at=10**9)])
    bounds = (0.001, 0.005, 0.01, 0.02)
    (ttft,) = exemplars.of("headrace_ttft_seconds", "m", bounds).items()
    assert ttft[0] == 2
    assert (ttft[1].request, ttft[1].value) == (8, pytest.approx(0.007))
    assert exemplars.of("headrace_queue_seconds", "m", bounds)[1].value == pytest.approx(0.002)
    assert exemplars.of("headrace_e2e_seconds", "m", bounds)[3].value == pytest.approx(0.015)
    assert exemplars.of("headrace_inter_token_seconds", "m", bounds)[0].value == pytest.approx(7e-7)
    assert exemplars.of("headrace_ttft_seconds", "other", bounds) == {}


# --- when ----------------------------------------------------------------------------------------------------------


def test_both_tellers_of_an_end_are_waited_for_and_spans_are_made_once() -> None:
    timelines, made = Timelines(10), []
    tracer = Tracer(timelines, 1.0, made.append)
    events = life()
    for request in timelines.take(Timeline("scheduler@m", tuple(events[3:]))):
        tracer.ended(request, 0)
    tracer.tick(SETTLE_NS - 1)
    assert made == []
    for request in timelines.take(Timeline("ingress@0", tuple(events[:3]))):
        tracer.ended(request, 500 * MS)
    tracer.tick(SETTLE_NS)
    assert [span.name for span in made[0]] == ["request", "queue", "prefill", "decode"]
    tracer.ended(7, SETTLE_NS)
    tracer.tick(3 * SETTLE_NS)
    assert len(made) == 1


def test_what_waits_is_bounded() -> None:
    tracer = Tracer(Timelines(1), 1.0, lambda _: None)
    for request in range(MAX_REMEMBERED + 50):
        tracer.ended(request, 0)
    assert len(tracer._due) == MAX_REMEMBERED


# --- over the wire -------------------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.hold.set()
    collector.server.shutdown()
    collector.server.server_close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "never became true"
        time.sleep(0.02)


def test_a_collector_gets_the_spans_with_their_times_ids_and_attributes(collector: Collector) -> None:
    exporter = Exporter(collector.endpoint)
    began_ns = time.monotonic_ns() - 20 * MS
    exporter.offer(spans(7, "m", life(GIVEN, at=began_ns)))
    until(lambda: len(collector.spans()) == 4)
    root, queue = collector.spans()[:2]
    assert root.name == "request m"
    assert root.trace_id.hex() == GIVEN[3:35]
    assert root.parent_span_id.hex() == GIVEN[36:52]
    assert queue.parent_span_id == root.span_id
    assert root.end_time_unix_nano - root.start_time_unix_nano == 15 * MS
    assert abs(root.end_time_unix_nano - time.time_ns()) < 60 * 10**9
    told = {each.key: each.value.string_value or each.value.int_value for each in root.attributes}
    assert told["headrace.request"] == f"{7:016x}"
    assert told["gen_ai.usage.output_tokens"] == 6
    described = collector.requests[0].resource_spans[0].resource.attributes
    resource = {each.key: each.value.string_value for each in described}
    assert resource["service.name"] == "headrace"
    until(lambda: exporter.sent == 4)
    assert exporter.dropped == 0
    exporter.close()


def test_spans_that_are_too_many_or_refused_are_dropped_and_counted_and_nobody_waits(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.tracing.exporter.MAX_WAITING", 40)
    monkeypatch.setattr("metrics.tracing.exporter.AT_ONCE", 10)
    collector.hold.clear()
    exporter = Exporter(collector.endpoint)
    one = spans(7, "m", life())
    for _ in range(100):
        exporter.offer(one)
    assert exporter.dropped >= 400 - 40 - 10 - 10
    assert exporter.sent == 0
    collector.status = 400  # not one that is worth another attempt
    collector.hold.set()
    until(lambda: exporter.dropped == 400)
    collector.status = 200
    exporter.offer(one)
    until(lambda: exporter.sent == 4)
    exporter.close()


def test_a_collector_that_is_not_there_costs_the_spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.tracing.exporter.TIMEOUT_S", 0.3)
    exporter = Exporter("http://127.0.0.1:9")
    exporter.offer(spans(7, "m", life()))
    until(lambda: exporter.dropped == 4)
    exporter.close()


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(OtelMissing, match=r"pip install 'headrace\[otel\]'"):
        Exporter("http://127.0.0.1:9")
