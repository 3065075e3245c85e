"""The Prometheus text format (0.0.4) of everything collected. Written by prometheus_client; no state here.

Totals are those of `core.series`: they go on over restarts of the process that counts. Every series says which process
it comes from in `instance`; scrape with `honor_labels: true` to keep it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

from bus.messages.telemetry import InstrumentKind
from metrics.core.collector import Collector
from metrics.core.instruments import help_text, public
from metrics.core.series import Labels, Reading, Track

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class OwnCounts(NamedTuple):
    """What the metrics process counts about itself."""

    frames: int
    refused: int
    published: int


def exposition(collector: Collector, own: OwnCounts) -> bytes:
    """Everything known, as text/plain; version=0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_View(collector, own))
    return generate_latest(registry)


class _View(PrometheusCollector):
    """prometheus_client's way to be asked for metrics."""

    def __init__(self, collector: Collector, own: OwnCounts) -> None:
        self._collector, self._own = collector, own

    def collect(self) -> Iterable[Metric]:
        yield from _processes(self._collector)
        yield from _own(self._collector, self._own)
        for name, kind, rows in self._collector.series.families():
            yield _family(name, kind, rows)


def _family(name: str, kind: InstrumentKind, rows: list[tuple[str, Labels, Track]]) -> Metric:
    shown = public(name, ())[0]
    metric = _metric(shown, help_text(name), kind)
    for process, own_labels, track in rows:
        labels = {**dict(public(name, own_labels)[1]), "instance": process}
        total = track.total()
        if kind == "histogram":
            _add_histogram(metric, shown, labels, track.bounds, total)
        else:
            metric.add_sample(_sample_name(shown, kind), labels, total.value)
    return metric


def _metric(name: str, documentation: str, kind: InstrumentKind) -> Metric:
    return Metric(name.removesuffix("_total") if kind == "counter" else name, documentation, kind)


def _sample_name(name: str, kind: InstrumentKind) -> str:
    return name.removesuffix("_total") + "_total" if kind == "counter" else name


def _add_histogram(
    metric: Metric, name: str, labels: dict[str, str], bounds: tuple[float, ...], total: Reading
) -> None:
    for bound, count in zip((*bounds, float("inf")), total.buckets, strict=True):
        metric.add_sample(f"{name}_bucket", {**labels, "le": str(floatToGoString(bound))}, count)  # type: ignore[no-untyped-call]
    metric.add_sample(f"{name}_count", labels, total.buckets[-1])
    metric.add_sample(f"{name}_sum", labels, total.value)


def _processes(collector: Collector) -> Iterator[Metric]:
    up = _metric("headrace_process_up", "Whether the process is heard of (1) or gone (0).", "gauge")
    cpu = _metric("headrace_process_cpu_seconds_total", "CPU time of the present incarnation.", "counter")
    memory = _metric("headrace_process_resident_memory_bytes", "Resident memory.", "gauge")
    progress = _metric("headrace_process_progress_total", "Units of work done by the present incarnation.", "counter")
    started = _metric("headrace_process_start_time_seconds", "Start of the present incarnation, Unix time.", "gauge")
    wall_offset_s = time.time() - time.monotonic()
    for name, member in sorted(collector.fleet.members.items()):
        sample = member.sample
        labels = {"instance": name, "role": sample.role}
        up.add_sample(up.name, labels, 0 if member.gone else 1)
        if member.gone:
            continue
        cpu.add_sample(f"{cpu.name}_total", labels, sample.cpu_s)
        memory.add_sample(memory.name, labels, sample.rss_bytes)
        progress.add_sample(f"{progress.name}_total", labels, sample.progress)
        started.add_sample(started.name, labels, round(wall_offset_s + sample.started_ns / 1e9, 3))
    yield from (up, cpu, memory, progress, started)


def _own(collector: Collector, own: OwnCounts) -> Iterator[Metric]:
    counts = (
        ("headrace_metrics_frames", "Telemetry messages received.", own.frames),
        ("headrace_metrics_malformed_frames", "Telemetry messages that were refused as malformed.", own.refused),
        ("headrace_metrics_refused_series", "Instruments that were malformed or too many.", collector.series.refused),
        ("headrace_metrics_stale_samples", "Samples of incarnations that had been replaced.", collector.stale),
        ("headrace_metrics_crowded_samples", "Samples of processes beyond the limit.", collector.crowded),
        ("headrace_metrics_feed_updates", "Updates published on the feed.", own.published),
    )
    for name, documentation, value in counts:
        metric = Metric(name, documentation, "counter")
        metric.add_sample(f"{name}_total", {}, value)
        yield metric
    kept = Metric("headrace_metrics_timelines", "Requests whose timeline is kept.", "gauge")
    kept.add_sample(kept.name, {}, len(collector.timelines))
    yield kept
