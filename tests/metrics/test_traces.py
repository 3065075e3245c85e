"""Real stacks, as their metrics processes heard them: one that is well raises no alarm, whatever is done to it; of one
that is crowded and loses its worker, each request can be explained.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from traces import CROWDED, HEALTHY, play, read

from bus.messages.observe import GetTimeline, TimelineReply
from bus.messages.telemetry import Sample
from metrics.core.explain.words import WORK
from metrics.core.judge import Settings
from metrics.core.rules.models import Targets

EXPECTED = ("kv@host", "scheduler@smollm2", "worker@smollm2.0.0", "ingress@0")
SETTINGS = Settings(Targets(30.0, 1.0, 60.0), EXPECTED)


def test_a_stack_that_is_well_raises_no_alarm() -> None:
    """Through its start, load, a drain, a restart of each process, idleness, load again and its end."""
    found: Counter[str] = Counter()
    states, epochs = set(), Counter[str]()
    for heard, collector in play(read(HEALTHY), SETTINGS):
        assert heard.kind == "tick"
        found.update(f"{finding.id}: {finding.text}" for finding in collector.snapshot(0).findings)
    for heard in read(HEALTHY):
        if isinstance(heard.body, Sample):
            states.add(heard.body.state)
            epochs[heard.body.name] = max(epochs[heard.body.name], heard.body.epoch)
    assert not found
    assert {"starting", "ready", "draining", "stopped"} <= states  # it was not just idle
    assert set(EXPECTED) <= epochs.keys()


@pytest.fixture(scope="module")
def explained() -> list[TimelineReply]:
    """Every request of the crowded stack."""
    *_, (_, collector) = play(read(CROWDED), SETTINGS)
    requests = {event.request for heard in read(CROWDED) if heard.kind == "Timeline" for event in heard.body.events}
    return [collector.timeline(GetTimeline(1, request), heard_last(collector)) for request in sorted(requests)]


def heard_last(collector: object) -> int:
    return int(collector.snapshot(0).at_ns)  # type: ignore[attr-defined]


def test_every_request_of_a_crowded_stack_is_accounted_to_the_nanosecond(explained: list[TimelineReply]) -> None:
    assert len(explained) > 30
    for reply in explained:
        spans = reply.spans
        assert all(left.end_ns == right.begin_ns for left, right in pairwise(spans))
        assert spans[0].begin_ns == reply.events[0].at_ns
        assert reply.response.startswith("cmpl-")
        assert reply.verdict


def test_its_waits_have_the_causes_that_were_made(explained: list[TimelineReply]) -> None:
    """Slots for which 20 clients compete, prompts of 800 tokens beside streams, and the death of the worker."""
    causes = Counter(span.cause for reply in explained for span in reply.spans)
    assert causes["slots"] > 10
    assert causes["chunk"] >= len(explained)
    assert causes["worker-lost"] > 3
    ids = {reply.request for reply in explained}
    for reply in explained:
        for span in reply.spans:
            assert set(span.requests) <= ids - {reply.request}
            if span.cause == "slots":
                assert span.requests
            if span.cause == "chunk":
                assert f"tokens in step {span.step}" in span.text
            if span.cause == "worker-lost":
                assert "worker@smollm2.0.0" in span.text


def test_little_of_its_time_is_left_unexplained(explained: list[TimelineReply]) -> None:
    time: Counter[str] = Counter()
    for reply in explained:
        for span in reply.spans:
            time[span.cause] += span.end_ns - span.begin_ns
    waits = sum(ns for cause, ns in time.items() if cause not in WORK)
    assert waits > 0
    assert time["unknown"] < 0.1 * sum(time.values())


def test_a_crowded_stack_that_loses_its_worker_says_so() -> None:
    codes = {
        finding.code for _, collector in play(read(CROWDED), SETTINGS) for finding in collector.snapshot(0).findings
    }
    assert codes <= {
        "late", "gone", "queue-growing", "no-replica", "standing-still", "ttft-high", "itl-high", "steps-slow"
    }  # fmt: skip
