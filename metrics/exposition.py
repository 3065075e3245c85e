"""Everything collected as Prometheus' text (0.0.4), or as OpenMetrics (1.0.0), which adds units and exemplars.

Written by prometheus_client; no state here. Totals are those of `core.series`: they go on over restarts of the process
that counts. Every series says which process it comes from in `instance`; scrape with `honor_labels: true` to keep it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Exemplar as PrometheusExemplar
from prometheus_client.utils import floatToGoString

from bus.messages.telemetry import InstrumentKind
from metrics.core.collector import Collector
from metrics.core.costs import Rate
from metrics.core.exemplars import Exemplar
from metrics.core.instruments import help_text, public
from metrics.core.series import Labels, Reading, Track

UNITS: Final = ("seconds", "bytes", "ratio", "tokens", "pages", "requests", "records", "cores")


class OwnCounts(NamedTuple):
    """What the metrics process counts about itself, and what it knows of the host.

    Attributes:
        usage_written, usage_waiting: records in the ledger since the start, and those that are not there yet.
        spans_sent, spans_dropped: None where nothing is traced.
        rate: prices in force; None where there is no ledger.
    """

    frames: int
    refused: int
    published: int
    usage_written: int = 0
    usage_waiting: int = 0
    ledger_bytes: int = 0
    spans_sent: int | None = None
    spans_dropped: int | None = None
    rate: Rate | None = None


def exposition(collector: Collector, own: OwnCounts, *, openmetrics: bool = False) -> bytes:
    """Everything known."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_View(collector, own))
    if openmetrics:
        written: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
        return written
    return generate_latest(registry)


class _View(PrometheusCollector):
    """prometheus_client's way to be asked for metrics."""

    def __init__(self, collector: Collector, own: OwnCounts) -> None:
        self._collector, self._own = collector, own
        self._wall_offset_s = time.time() - time.monotonic()

    def collect(self) -> Iterable[Metric]:
        yield from _processes(self._collector, self._wall_offset_s)
        yield from _own(self._collector, self._own)
        yield from _reached(self._collector)
        if self._own.rate is not None:
            yield from _prices(self._own.rate)
        for name, kind, rows in self._collector.series.families():
            yield self._family(name, kind, rows)

    def _family(self, name: str, kind: InstrumentKind, rows: list[tuple[str, Labels, Track]]) -> Metric:
        shown = public(name, ())[0]
        metric = _metric(shown, help_text(name), kind)
        for process, own_labels, track in rows:
            labels = {**dict(public(name, own_labels)[1]), "instance": process}
            total = track.total()
            if kind == "histogram":
                model = dict(own_labels).get("model", "")
                exemplars = self._collector.exemplars.of(name, model, track.bounds)
                self._add_histogram(metric, shown, labels, track.bounds, total, exemplars)
            else:
                metric.add_sample(_sample_name(shown, kind), labels, total.value)
        return metric

    def _add_histogram(
        self,
        metric: Metric,
        name: str,
        labels: dict[str, str],
        bounds: tuple[float, ...],
        total: Reading,
        exemplars: dict[int, Exemplar],
    ) -> None:
        for index, (bound, count) in enumerate(zip((*bounds, float("inf")), total.buckets, strict=True)):
            told = exemplars.get(index)
            metric.add_sample(
                f"{name}_bucket",
                {**labels, "le": str(floatToGoString(bound))},  # type: ignore[no-untyped-call]
                count,
                exemplar=self._exemplar(told) if told is not None else None,
            )
        metric.add_sample(f"{name}_count", labels, total.buckets[-1])
        metric.add_sample(f"{name}_sum", labels, total.value)

    def _exemplar(self, told: Exemplar) -> PrometheusExemplar:
        labels = {"request_id": f"{told.request:016x}", "trace_id": told.trace}
        return PrometheusExemplar(labels, told.value, round(self._wall_offset_s + told.at_ns / 1e9, 3))


def _metric(name: str, documentation: str, kind: InstrumentKind) -> Metric:
    family = name.removesuffix("_total") if kind == "counter" else name
    unit = next((unit for unit in UNITS if family.endswith(f"_{unit}")), "")
    return Metric(family, documentation, kind, unit)


def _sample_name(name: str, kind: InstrumentKind) -> str:
    return name.removesuffix("_total") + "_total" if kind == "counter" else name


def _processes(collector: Collector, wall_offset_s: float) -> Iterator[Metric]:
    up = _metric("headrace_process_up", "Whether the process is heard of (1) or gone (0).", "gauge")
    cpu = _metric("headrace_process_cpu_seconds_total", "CPU time of the present incarnation.", "counter")
    memory = _metric("headrace_process_resident_memory_bytes", "Resident memory.", "gauge")
    progress = _metric("headrace_process_progress_total", "Units of work done by the present incarnation.", "counter")
    started = _metric("headrace_process_start_time_seconds", "Start of the present incarnation, Unix time.", "gauge")
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
    counts: list[tuple[str, str, int | None]] = [
        ("headrace_metrics_frames", "Telemetry messages received.", own.frames),
        ("headrace_metrics_malformed_frames", "Telemetry messages that were refused as malformed.", own.refused),
        ("headrace_metrics_refused_series", "Instruments that were malformed or too many.", collector.series.refused),
        ("headrace_metrics_stale_samples", "Samples of incarnations that had been replaced.", collector.stale),
        ("headrace_metrics_crowded_samples", "Samples of processes beyond the limit.", collector.crowded),
        ("headrace_metrics_feed_updates", "Updates published on the feed.", own.published),
        ("headrace_ledger_records", "Records of usage written to the ledger.", own.usage_written),
        ("headrace_traces_sent_spans", "Spans that the collector of traces has taken.", own.spans_sent),
        ("headrace_traces_dropped_spans", "Spans that were too many, or refused.", own.spans_dropped),
    ]
    for name, documentation, value in counts:
        if value is not None:
            metric = _metric(name, documentation, "counter")
            metric.add_sample(f"{name}_total", {}, value)
            yield metric
    gauges = (
        ("headrace_metrics_timelines", "Requests whose timeline is kept.", len(collector.timelines)),
        ("headrace_ledger_waiting_records", "Records of usage that are here and not written yet.", own.usage_waiting),
        ("headrace_ledger_bytes", "Size of the ledger's file and its log.", own.ledger_bytes),
        ("headrace_ledger_writable", "Whether the ledger can be written.", int(not collector.ledger_problem)),
        ("headrace_findings", "Findings that an operator should look at.", len(collector.snapshot(0).findings)),
    )
    for name, documentation, value in gauges:
        metric = _metric(name, documentation, "gauge")
        metric.add_sample(name, {}, value)
        yield metric


def _reached(collector: Collector) -> Iterator[Metric]:
    """Only where it is known: a ratio of -1 would be averaged with the others."""
    mbu = _metric(
        "headrace_mbu_ratio", "Memory bandwidth of steps in the last 10 s, of what the host can do.", "gauge"
    )  # fmt: skip
    mfu = _metric("headrace_mfu_ratio", "Arithmetic of steps in the last 10 s, of what the host can do.", "gauge")
    for load in collector.snapshot(0).models:
        for metric, value in ((mbu, load.mbu), (mfu, load.mfu)):
            if value >= 0:
                metric.add_sample(metric.name, {"model": load.model}, value)
    yield from (mbu, mfu)
    ceilings = collector.ceilings
    memory = _metric("headrace_host_read_bytes_per_second", "Memory bandwidth that was measured.", "gauge")
    arithmetic = _metric("headrace_host_operations_per_second", "Arithmetic that was measured, by type.", "gauge")
    if ceilings is not None:
        memory.add_sample(memory.name, {}, ceilings.read_bytes_per_s)
        for kind, value in sorted(ceilings.operations_per_s.items()):
            arithmetic.add_sample(arithmetic.name, {"arithmetic": kind}, value)
    yield from (memory, arithmetic)


def _prices(rate: Rate) -> Iterator[Metric]:
    cores = _metric("headrace_host_cores", "Cores that requests can be computed with.", "gauge")
    cores.add_sample(cores.name, {}, rate.cores)
    yield cores
    if rate.priced:
        price = _metric("headrace_host_price_per_hour", "What the host costs an hour, busy and idle.", "gauge")
        for state, value in (("busy", rate.busy_hour), ("idle", rate.idle_hour)):
            price.add_sample(price.name, {"currency": rate.currency, "state": state}, value)
        yield price
