"""Timelines are bounded, in order, and tell of the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.messages.observe import GetTimeline
from bus.messages.telemetry import Timeline, TimelineEvent
from metrics.core.timelines import MAX_EVENTS, MAX_FINISHED, Timelines


def event(request: int, at: int, kind: str = "chunk", value: int = 0, detail: str = "") -> TimelineEvent:
    return TimelineEvent(request, at, kind, value, 0, detail)  # type: ignore[arg-type]


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99)), max_size=80))
def test_the_last_n_requests_that_spoke_are_kept_in_order_of_time(limit: int, said: list[tuple[int, int]]) -> None:
    """Against the definition of least recently used."""
    timelines, order = Timelines(limit), []
    for request, at in said:
        timelines.take(Timeline("ingress@0", (event(request, at),)))
        order = [other for other in order if other != request] + [request]
    kept = order[-limit:]
    assert len(timelines) == len(kept)
    for request in kept:
        times = [e.at_ns for e in timelines.events(request)]
        assert times == sorted(times)
        assert times
    for request in set(order) - set(kept):
        assert timelines.events(request) == ()


def test_a_request_with_too_many_events_keeps_its_beginning_and_its_end() -> None:
    timelines = Timelines(4)
    for at in range(MAX_EVENTS + 100):
        timelines.take(Timeline("scheduler@m", (event(1, at),)))
    times = [e.at_ns for e in timelines.events(1)]
    assert len(times) == MAX_EVENTS
    assert times[0] == 0
    assert times[-1] == MAX_EVENTS + 99


def test_a_request_that_ended_has_a_line_that_late_events_complete() -> None:
    timelines = Timelines(4)
    timelines.take(
        Timeline(
            "scheduler@m",
            (event(9, 20, "queued"), event(9, 30, "hit", 64), event(9, 50, "first_token"),
             event(9, 90, "finished", 17, "stop")),
        )
    )  # fmt: skip
    timelines.take(Timeline("ingress@0", (event(9, 10, "received"), event(9, 15, "tokenized", 100))))
    (line,) = timelines.finished()
    assert (line.model, line.reason, line.duration_ns, line.ttft_ns) == ("m", "stop", 80, 40)
    assert (line.prompt_tokens, line.cached_tokens, line.generated_tokens) == (100, 64, 17)


def test_the_end_is_what_came_first_and_aborts_say_so() -> None:
    timelines = Timelines(4)
    timelines.take(Timeline("ingress@0", (event(1, 10, "received"), event(1, 40, "aborted", 3, "client"))))
    timelines.take(Timeline("scheduler@m", (event(1, 41, "finished", 3, "abort"),)))
    (line,) = timelines.finished()
    assert (line.reason, line.ended_ns, line.generated_tokens, line.model) == ("aborted", 40, 3, "m")


def test_finished_lines_are_bounded_and_the_latest_is_first() -> None:
    timelines = Timelines(1000)
    for request in range(MAX_FINISHED + 5):
        timelines.take(Timeline("scheduler@m", (event(request, request, "finished", 1, "stop"),)))
    lines = timelines.finished()
    assert len(lines) == MAX_FINISHED
    assert lines[0].request == MAX_FINISHED + 4


def test_a_request_that_was_refused_and_tried_again_ended_as_it_ended_then() -> None:
    timelines = Timelines(4)
    timelines.take(Timeline("scheduler@m", (event(1, 10, "queued"), event(1, 20, "refused", 0, "not_ready"))))
    assert timelines.finished()[0].reason == "refused"
    timelines.take(Timeline("scheduler@m", (event(1, 30, "queued"), event(1, 90, "finished", 8, "stop"))))
    assert [(line.reason, line.generated_tokens) for line in timelines.finished()] == [("stop", 8)]


def test_a_request_is_found_by_what_its_client_calls_it_the_latest_so() -> None:
    timelines = Timelines(3)
    for request in (1, 2, 3):
        called = TimelineEvent(request, request, "called", detail="again" if request < 3 else "other")
        timelines.take(Timeline("ingress@0", (event(request, request, "received"), called)))
    assert [timelines.find(GetTimeline(1, 0, name)) for name in ("again", "other", "none")] == [2, 3, 0]
    for request in (4, 5, 6):
        timelines.take(Timeline("ingress@0", (event(request, request, "received"),)))
    assert [timelines.find(GetTimeline(1, 0, name)) for name in ("again", "other")] == [0, 0]
    assert not timelines._called
