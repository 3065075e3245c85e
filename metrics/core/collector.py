"""All that is known, behind one object: messages go in, a view comes out twice a second. Pure; the time is given.

The view of the last tick answers snapshots, so a snapshot and the feed's updates always fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bus.ceilings import Ceilings
from bus.messages.observe import Snapshot, Update
from bus.messages.telemetry import LiveRequests, Sample, Timeline, TimelineEvent
from metrics.core.exemplars import Exemplars
from metrics.core.findings import Alarms, Condition, ModelWatch, own_conditions, page_conditions, process_conditions
from metrics.core.fleet import Fleet
from metrics.core.live import Live
from metrics.core.loads import model_loads, page_load
from metrics.core.series import WINDOW_NS, SeriesStore
from metrics.core.timelines import Timelines

MIN_SPAN_NS: Final = 1_000_000_000  # rates over less would jump


class Collector:
    """The state of the metrics process.

    Args:
        timelines: how many requests' timelines are kept.
        now_ns: when watching began.

    Attributes:
        stale: samples of incarnations that were replaced.
        crowded: samples of processes beyond the number that is kept.
        ceilings: what the host can do, where that was measured.
        ledger_problem, traces_problem: why usage cannot be written, or spans sent; empty where they can.
        on_end: told of requests that have ended, perhaps more than once.
    """

    def __init__(self, timelines: int, now_ns: int) -> None:
        self._began_ns = now_ns
        self.series = SeriesStore()
        self.fleet = Fleet()
        self.timelines = Timelines(timelines)
        self.exemplars = Exemplars()
        self.ceilings: Ceilings | None = None
        self.ledger_problem = self.traces_problem = ""
        self.on_end: Callable[[int], None] | None = None
        self._live = Live()
        self._alarms = Alarms()
        self._watches: dict[str, ModelWatch] = {}
        self.stale = 0
        self.crowded = 0
        self._view = self._look(0, now_ns)

    def on_sample(self, sample: Sample, now_ns: int) -> None:
        """A process described itself."""
        before = self.fleet.members.get(sample.name)
        heard_ns = before.seen_ns if before else None
        match self.fleet.take(sample, now_ns):
            case "stale":
                self.stale += 1
                return
            case "too_many":
                self.crowded += 1
                return
            case "restarted":
                self.series.restarted(sample.name)
                heard_ns = max(heard_ns or 0, sample.started_ns)
            case "first" if sample.started_ns >= self._began_ns:
                heard_ns = sample.started_ns
        for series in sample.series:
            self.series.take(sample.name, series, now_ns, heard_ns)

    def on_timeline(self, timeline: Timeline) -> None:
        """Events of requests."""
        for request in self.timelines.take(timeline):
            self.exemplars.take(request, self.timelines.model(request), self.timelines.events(request))
            if self.on_end is not None:
                self.on_end(request)

    def on_live(self, listed: LiveRequests, now_ns: int) -> None:
        """A scheduler's requests."""
        self._live.take(listed, now_ns)

    def tick(self, now_ns: int) -> Update:
        """Look at everything as of now. The update holds what changed since the tick before."""
        gone, forgotten = self.fleet.expire(now_ns)
        for name in gone:
            self.series.drop_gauges(name)
        for name in forgotten:
            self.series.forget(name)
        self._live.expire(now_ns)
        before, self._view = self._view, self._look(self._view.seq + 1, now_ns)
        return difference(before, self._view)

    def snapshot(self, rid: int) -> Snapshot:
        """The view of the last tick."""
        view = self._view
        return Snapshot(
            rid, view.seq, view.at_ns, view.processes, view.models, view.pages, view.requests, view.requests_total,
            view.findings, view.recent,
        )  # fmt: skip

    def timeline(self, request: int) -> tuple[TimelineEvent, ...]:
        """Events of one request in order of time."""
        return self.timelines.events(request)

    def _look(self, seq: int, now_ns: int) -> Snapshot:
        span_s = min(WINDOW_NS, max(MIN_SPAN_NS, now_ns - self._began_ns)) / 1e9
        models = model_loads(self.series, now_ns, span_s, self.ceilings)
        pages = page_load(self.series)

        def conditions() -> Iterator[Condition]:
            for name, member in self.fleet.members.items():
                yield from process_conditions(name, member, now_ns)
            for load in models:
                yield from self._watches.setdefault(load.model, ModelWatch()).conditions(load, now_ns)
            yield from own_conditions(self.ledger_problem, self.traces_problem)
            yield from page_conditions(pages, sum(load.preemptions_per_s for load in models))

        for model in self._watches.keys() - {load.model for load in models}:
            del self._watches[model]
        return Snapshot(
            rid=0,
            seq=seq,
            at_ns=now_ns,
            processes=self.fleet.samples(),
            models=models,
            pages=pages,
            requests=self._live.requests(),
            requests_total=self._live.total(),
            findings=self._alarms.step(conditions(), now_ns),
            recent=self.timelines.finished(),
        )


def difference(before: Snapshot, after: Snapshot) -> Update:
    """The feed's step from one view to the next."""
    return Update(
        seq=after.seq,
        at_ns=after.at_ns,
        processes=after.processes if after.processes != before.processes else None,
        models=after.models if after.models != before.models else None,
        pages=after.pages if after.pages != before.pages else None,
        requests=after.requests if after.requests != before.requests else None,
        requests_total=after.requests_total,
        findings=after.findings if after.findings != before.findings else None,
        recent=after.recent if after.recent != before.recent else None,
    )
