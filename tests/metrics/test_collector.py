"""The collector as a whole: what goes in comes out in snapshots, and snapshot plus updates is always the next view."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.messages.observe import Snapshot, Update
from bus.messages.telemetry import LiveRequest, LiveRequests, Sample, Series, Timeline, TimelineEvent
from metrics.core.collector import Collector

SECOND = 1_000_000_000
MODEL = (("model", "m"),)
BOUNDS = (0.1, 1.0, 10.0)


def sample(now: int, epoch: int = 1, name: str = "scheduler@m", series: tuple[Series, ...] = ()) -> Sample:
    return Sample(name, name.partition("@")[0], 7, epoch, "ready", now, now, False, 0.0, 0, series)


def scheduler_series(tokens: int, requests: int = 0) -> tuple[Series, ...]:
    return (
        Series("headrace_replicas", "gauge", MODEL, 1),
        Series("headrace_replicas_ready", "gauge", MODEL, 1),
        Series("headrace_queue_requests", "gauge", MODEL, 2),
        Series("headrace_running_requests", "gauge", MODEL, 3),
        Series("headrace_output_tokens_total", "counter", MODEL, tokens),
        Series("headrace_requests_total", "counter", (*MODEL, ("reason", "stop")), requests),
        Series("headrace_ttft_seconds", "histogram", MODEL, requests * 0.5, BOUNDS, (0, requests, requests, requests)),
    )


def live(name: str, *requests: int) -> LiveRequests:
    rows = tuple(LiveRequest(r, "t", "m", "decode", r, 0, 1, 1, 0, 1, 1, 1, 0, 0) for r in requests)
    return LiveRequests(name, len(rows), rows)


def test_a_model_line_comes_from_its_scheduler_over_the_last_ten_seconds() -> None:
    collector = Collector(10, 0)
    for second in range(1, 21):
        collector.on_sample(sample(0, series=scheduler_series(100 * second, second)), second * SECOND)
    collector.tick(20 * SECOND)
    (line,) = collector.snapshot(1).models
    assert (line.waiting, line.running, line.replicas, line.replicas_ready) == (2, 3, 1, 1)
    assert line.output_tokens_per_s == 100.0
    assert line.requests_per_s == 1.0
    assert 0.1 < line.ttft_p50_s < line.ttft_p95_s < 1.0
    assert line.prefix_hit_ratio == -1.0


def test_rates_go_on_over_a_restart_of_the_scheduler() -> None:
    collector = Collector(10, 0)
    for second in range(1, 11):
        collector.on_sample(sample(0, series=scheduler_series(100 * second)), second * SECOND)
    for second in range(11, 21):
        collector.on_sample(sample(10 * SECOND, epoch=2, series=scheduler_series(100 * (second - 10))), second * SECOND)
    collector.on_sample(sample(0, epoch=1, series=scheduler_series(999_999)), 20 * SECOND)
    collector.tick(20 * SECOND)
    assert collector.snapshot(1).models[0].output_tokens_per_s == 100.0
    assert collector.stale == 1


def test_a_scheduler_that_is_gone_leaves_a_line_without_replicas() -> None:
    collector = Collector(10, 0)
    collector.on_sample(sample(0, series=scheduler_series(5)), SECOND)
    for tick in range(2, 65):
        collector.tick(tick * SECOND // 2)
    view = collector.snapshot(1)
    assert view.processes == ()
    assert (view.models[0].replicas, view.models[0].running) == (0, 0)
    assert [finding.code for finding in view.findings] == ["gone"]


def test_live_requests_of_all_schedulers_are_merged_and_expire_with_their_scheduler() -> None:
    collector = Collector(10, 0)
    collector.on_live(live("scheduler@a", 5, 1), 0)
    collector.on_live(live("scheduler@b", 3), 2 * SECOND)
    collector.tick(2 * SECOND)
    assert [request.request for request in collector.snapshot(1).requests] == [5, 3, 1]
    collector.tick(4 * SECOND)
    view = collector.snapshot(1)
    assert ([request.request for request in view.requests], view.requests_total) == ([3], 1)


def test_pages_add_up_over_pools() -> None:
    collector = Collector(10, 0)
    series = tuple(
        Series("headrace_kv_pages", "gauge", (("pool", pool), ("state", state)), pages)
        for pool in ("a", "b")
        for state, pages in (("free", 5), ("leased", 2), ("cached", 3))
    )
    collector.on_sample(sample(0, name="kv@host", series=series), SECOND)
    collector.tick(SECOND)
    pages = collector.snapshot(1).pages
    assert (pages.total, pages.free, pages.leased, pages.cached) == (20, 10, 4, 6)


def applied(view: Snapshot, update: Update) -> Snapshot:
    fields: dict[str, Any] = {
        name: value for name in update.__struct_fields__ if (value := getattr(update, name)) is not None
    }
    return msgspec.structs.replace(view, **fields)


events = st.one_of(
    st.tuples(st.just("sample"), st.sampled_from(["scheduler@m", "kv@host"]), st.integers(0, 4), st.integers(0, 99)),
    st.tuples(st.just("live"), st.lists(st.integers(0, 9), unique=True, max_size=4)),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.integers(0, 20 * SECOND)),
)


@settings(max_examples=60)
@given(st.lists(events, max_size=40))
def test_a_snapshot_with_the_updates_after_it_is_the_latest_snapshot(script: list[tuple[Any, ...]]) -> None:
    """The Clone pattern's law, for any traffic."""
    collector, now = Collector(4, 0), 0
    mine = collector.snapshot(0)
    for kind, *what in script:
        match kind:
            case "sample":
                name, epoch, value = what
                collector.on_sample(sample(0, epoch, name, scheduler_series(value)), now)
            case "live":
                collector.on_live(live("scheduler@m", *what[0]), now)
            case "end":
                event = TimelineEvent(what[0], now, "finished", 1, 0, "stop")
                collector.on_timeline(Timeline("scheduler@m", (event,)))
            case "wait":
                now += what[0]
        now += SECOND // 2
        update = collector.tick(now)
        assert update.seq == mine.seq + 1
        mine = applied(mine, update)
        assert mine == collector.snapshot(0)


def test_what_did_not_change_is_not_sent() -> None:
    collector = Collector(4, 0)
    collector.on_sample(sample(0, series=scheduler_series(1)), 0)
    collector.tick(0)
    update = collector.tick(1)
    assert (update.processes, update.requests, update.findings, update.recent, update.pages) == (None,) * 5
