"""How the steps of each worker go, and which rank holds up the others. Arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Final

from msgspec.structs import replace

from bus.messages.details import WorkerPace
from bus.messages.telemetry import Sample
from bus.names import InvalidName, parse_process, parse_worker
from metrics.core.fleet import Fleet
from metrics.core.histograms import quantile
from metrics.core.series import SeriesStore

UNPLACED: Final = (-1, "", -1)


def worker_paces(
    fleet: Fleet, series: SeriesStore, places: Mapping[int, tuple[int, str, int]], now_ns: int, span_s: float
) -> tuple[WorkerPace, ...]:
    """Every worker that is there, by name.

    Args:
        places: core, allowed cores and NUMA node, by pid.
        span_s: how much of the rates' window has been watched.
    """
    steps = series.added_by_process("headrace_step_seconds", now_ns)
    tokens = series.added_by_process("headrace_step_tokens_total", now_ns)
    bounds = series.bounds("headrace_step_seconds")
    found: list[WorkerPace] = []
    for name, member in sorted(fleet.members.items()):
        if member.gone or (named := _worker(member.sample)) is None:
            continue
        reading = steps.get(name)
        count = reading.buckets[-1] if reading is not None and reading.buckets else 0
        mean_s = reading.value / count if reading is not None and count else 0.0
        cpu, cpus, node = places.get(member.sample.pid, UNPLACED)
        found.append(
            WorkerPace(
                name=name,
                model=named[0],
                replica=named[1],
                rank=named[2],
                pid=member.sample.pid,
                steps_per_s=count / span_s,
                step_s=mean_s,
                step_p95_s=quantile(0.95, bounds.get(name, ()), reading.buckets) if reading is not None else 0.0,
                skew_s=0.0,
                busy=min(1.0, reading.value / span_s) if reading is not None else 0.0,
                tokens_per_s=tokens[name].value / span_s if name in tokens else 0.0,
                cores=member.cores,
                cpus=cpus,
                cpu=cpu,
                node=node,
            )
        )
    return _with_skew(found)


def _with_skew(paces: list[WorkerPace]) -> tuple[WorkerPace, ...]:
    """All ranks of a replica run the same steps; the slowest is what a step takes."""
    groups: dict[tuple[str, int], list[float]] = {}
    for pace in paces:
        if pace.step_s:
            groups.setdefault((pace.model, pace.replica), []).append(pace.step_s)
    return tuple(
        replace(pace, skew_s=pace.step_s - median(groups[pace.model, pace.replica])) if pace.step_s else pace
        for pace in paces
    )


def _worker(sample: Sample) -> tuple[str, int, int] | None:
    if sample.role != "worker":
        return None
    try:
        return parse_worker(parse_process(sample.name).instance)
    except InvalidName:
        return None
