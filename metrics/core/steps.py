"""The last thousand steps of each scheduler, and why they were not faster. Arithmetic only: the reasons are its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Final, get_args

from bus.messages.details import BoundShare, ModelSteps, StepPart
from bus.messages.vitals import SchedulerView, StepBound, StepLine, Steps
from metrics.core.fleet import MAX_PROCESSES
from metrics.core.series import SeriesStore
from metrics.core.views import Heard

WINDOW_STEPS: Final = 1_000
LINES: Final = 120
PARTS: Final = ("plan", "send", "compute", "gather", "apply")
RATE_NS: Final = 10_000_000_000
FORGET_NS: Final = 600_000_000_000


class StepLog:
    """The steps of one scheduler."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.lines: deque[StepLine] = deque(maxlen=WINDOW_STEPS)
        self.total = 0
        self.heard_ns = 0

    def take(self, said: Steps, now_ns: int) -> None:
        """More steps; or, where the total fell, those of another incarnation."""
        if said.total < self.total or said.model != self.model:
            self.lines.clear()
        self.model, self.total, self.heard_ns = said.model, said.total, now_ns
        self.lines.extend(said.lines)


class StepLogs:
    """By scheduler."""

    def __init__(self) -> None:
        self.logs: dict[str, StepLog] = {}

    def take(self, said: Steps, now_ns: int) -> None:
        """A scheduler's steps."""
        log = self.logs.get(said.name)
        if log is None:
            if len(self.logs) >= MAX_PROCESSES:
                return
            log = self.logs[said.name] = StepLog(said.model)
        log.take(said, now_ns)

    def expire(self, now_ns: int) -> None:
        """Drop those of schedulers that have said nothing for long: not even that they live."""
        for name in [name for name, log in self.logs.items() if log.heard_ns < now_ns - FORGET_NS]:
            del self.logs[name]


def model_steps(
    name: str, log: StepLog, heard: Heard[SchedulerView] | None, series: SeriesStore, now_ns: int, span_s: float
) -> ModelSteps:
    """A model's steps as a screen shows them.

    Args:
        heard: what else its scheduler said of itself.
        span_s: how much of the rates' window has been watched.
    """
    lines, view = tuple(log.lines), heard.view if heard else None

    def part(name: str) -> StepPart:
        p50, p95 = series.quantiles("headrace_step_phase_seconds", now_ns, (0.5, 0.95), model=log.model, part=name)
        return StepPart(name, p50, p95)

    ran = sorted(line.ran_ns for line in lines)
    recent = sum(1 for line in lines if line.at_ns > now_ns - RATE_NS)
    window_s = (lines[-1].at_ns - lines[0].at_ns) / 1e9 if lines else 0.0
    return ModelSteps(
        model=log.model,
        scheduler=name,
        heard_ns=max(log.heard_ns, heard.at_ns if heard else 0),
        total=log.total,
        window=len(lines),
        window_s=window_s,
        steps_per_s=recent / span_s,
        idle_share=_idle_share(lines),
        bounds=bound_shares(lines),
        step_p50_s=_rank(ran, 0.5) / 1e9,
        step_p95_s=_rank(ran, 0.95) / 1e9,
        parts=tuple(map(part, PARTS)),
        error_p50=_error(lines),
        decode_rows=_mean(line.decodes for line in lines),
        prefill_tokens=_mean(line.prefill_tokens for line in lines),
        chunks=_mean(line.chunk_count for line in lines),
        queues=view.queues if view else (),
        knobs=view.knobs if view else (),
        replicas=view.replicas if view else (),
        lines=lines[-LINES:],
    )


def bound_shares(lines: Sequence[StepLine]) -> tuple[BoundShare, ...]:
    """Of these steps, by bound, the most time first; bounds that did not occur are left out."""
    counts: dict[StepBound, int] = dict.fromkeys(get_args(StepBound), 0)
    times = dict.fromkeys(counts, 0)
    for line in lines:
        counts[line.bound] += 1
        times[line.bound] += _took_ns(line)
    whole = sum(times.values()) or 1
    found = [BoundShare(bound, count, times[bound] / whole) for bound, count in counts.items() if count]
    return tuple(sorted(found, key=lambda share: -share.time_share))


def _took_ns(line: StepLine) -> int:
    """A step's time; the wait before it counts where it is not for want of work."""
    return line.ran_ns + line.gather_ns + (line.waited_ns if line.bound == "pipeline" else 0)


def _idle_share(lines: Sequence[StepLine]) -> float:
    firsts = {line.replica: line for line in reversed(lines)}.values()  # what came before them is not in the window
    idle = sum(line.waited_ns for line in lines if line.bound != "pipeline") - sum(
        line.waited_ns for line in firsts if line.bound != "pipeline"
    )
    whole = idle + sum(map(_took_ns, lines))
    return idle / whole if whole else 0.0


def _error(lines: Sequence[StepLine]) -> float:
    errors = [abs(line.ran_ns - line.predicted_ns) / line.ran_ns for line in lines if line.predicted_ns and line.ran_ns]
    return median(errors) if errors else -1.0


def _mean(values: Iterable[int]) -> float:
    known = list(values)
    return fmean(known) if known else 0.0


def _rank(ordered: Sequence[int], q: float) -> int:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0
