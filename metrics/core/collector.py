"""All that is known, behind one object: messages go in, a view comes out twice a second. Pure; the time is given.

The view of the last tick answers snapshots, so a snapshot and the feed's updates always fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bus.ceilings import Ceilings
from bus.messages.observe import GetTimeline, Snapshot, TimelineReply, Update
from bus.messages.telemetry import LiveRequests, Sample, Timeline
from bus.messages.vitals import Doors, SchedulerView, Steps
from metrics.core.endpoints import Endpoints
from metrics.core.exemplars import Exemplars
from metrics.core.explain import explain, has_ended, verdict
from metrics.core.findings import Alarms
from metrics.core.fleet import Fleet
from metrics.core.judge import NO_SETTINGS, Judge, Known, Settings
from metrics.core.live import Live
from metrics.core.loads import model_loads, page_load
from metrics.core.rules.host import HostView
from metrics.core.series import WINDOW_NS, SeriesStore
from metrics.core.step_ring import StepRing
from metrics.core.steps import StepLog, StepLogs
from metrics.core.timelines import Timelines
from metrics.core.views import Heard, View, Views

MIN_SPAN_NS: Final = 1_000_000_000  # rates over less would jump
TICK_NS: Final = 500_000_000
HELD_UP_NS: Final = 1_000_000_000  # a tick that comes so late says that nobody was listened to


class Collector:
    """The state of the metrics process.

    Args:
        timelines: how many requests' timelines are kept.
        now_ns: when watching began.
        settings: what is expected and asked for.

    Attributes:
        stale: samples of incarnations that were replaced.
        crowded: samples of processes beyond the number that is kept.
        views, steps, endpoints: what is not in the feed, but asked for.
        ceilings: what the host can do, where that was measured.
        ledger_problem, traces_problem: why usage cannot be written, or spans sent; empty where they can.
        on_end: told of requests that have ended, perhaps more than once.
    """

    def __init__(self, timelines: int, now_ns: int, settings: Settings = NO_SETTINGS) -> None:
        self._began_ns = self._ticked_ns = now_ns
        self.series = SeriesStore()
        self.fleet = Fleet()
        self.timelines = Timelines(timelines)
        self.views = Views()
        self.steps = StepLogs()
        self.endpoints = Endpoints()
        self._ring = StepRing()
        self.exemplars = Exemplars()
        self.ceilings: Ceilings | None = None
        self.ledger_problem = self.traces_problem = ""
        self.on_end: Callable[[int], None] | None = None
        self._live = Live()
        self._alarms = Alarms()
        self._judge = Judge(settings)
        self._host: HostView | None = None
        self._held_up_ns = self._oldest_sample_ns = 0
        self.stale = 0
        self.crowded = 0
        self._view = self._look(0, now_ns)

    def on_sample(self, sample: Sample, now_ns: int) -> None:
        """A process described itself."""
        if sample.at_ns:
            self._oldest_sample_ns = max(self._oldest_sample_ns, now_ns - sample.at_ns)
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

    def on_steps(self, steps: Steps, now_ns: int) -> None:
        """A scheduler's steps."""
        self.steps.take(steps, now_ns)
        self._ring.take(steps)

    def on_view(self, view: View, now_ns: int) -> None:
        """What a detail screen shows of a process."""
        self.views.take(view, now_ns)
        if isinstance(view, Doors) and view.name in self.views.doors:
            self.endpoints.take(view, now_ns)

    def schedulers(self) -> Iterator[tuple[str, StepLog, Heard[SchedulerView] | None]]:
        """(name, steps, view) of those that were heard, by model. One that was idle all the time has no steps."""
        logs, views = self.steps.logs, self.views.schedulers
        known = list(logs.items())
        known += [(name, StepLog(heard.view.model)) for name, heard in views.items() if name not in logs]
        for name, log in sorted(known, key=lambda item: item[1].model):
            yield name, log, views.get(name)

    @property
    def arena_bytes(self) -> int:
        """Of the page server; 0 where none was heard."""
        return sum(heard.view.arena_bytes for heard in self.views.arenas.values())

    def span_s(self, now_ns: int) -> float:
        """How much of the rates' window has been watched."""
        return min(WINDOW_NS, max(MIN_SPAN_NS, now_ns - self._began_ns)) / 1e9

    def on_host(self, view: HostView) -> None:
        """A look at the machine."""
        self._host = view

    def tick(self, now_ns: int) -> Update:
        """Look at everything as of now. The update holds what changed since the tick before."""
        self._held_up_ns, self._ticked_ns = max(0, now_ns - self._ticked_ns - TICK_NS), now_ns
        if self._held_up_ns >= HELD_UP_NS:
            self.fleet.forgive(self._held_up_ns)  # their samples wait in the socket
        gone, forgotten = self.fleet.expire(now_ns)
        for name in gone:
            self.series.drop_gauges(name)
        for name in forgotten:
            self.series.forget(name)
        self._live.expire(now_ns)
        self.views.expire(now_ns)
        self.steps.expire(now_ns)
        self.endpoints.expire(now_ns)
        before, self._view = self._view, self._look(self._view.seq + 1, now_ns)
        return difference(before, self._view)

    def snapshot(self, rid: int) -> Snapshot:
        """The view of the last tick."""
        view = self._view
        return Snapshot(
            rid, view.seq, view.at_ns, view.processes, view.models, view.pages, view.requests, view.requests_total,
            view.findings, view.recent,
        )  # fmt: skip

    def timeline(self, asked: GetTimeline, now_ns: int) -> TimelineReply:
        """Events of one request in order of time, and what that went into."""
        request = self.timelines.find(asked)
        events = self.timelines.events(request)
        model, response, choices = self.timelines.whose(request)
        spans = explain(events, self._ring.of(model), now_ns)
        told = verdict(spans, ended=has_ended(events))
        return TimelineReply(asked.rid, request, events, spans, model, response, choices, told, now_ns)

    def _look(self, seq: int, now_ns: int) -> Snapshot:
        span_s = self.span_s(now_ns)
        models = model_loads(self.series, now_ns, span_s, self.ceilings)
        pages = page_load(self.series)

        known = Known(
            self.fleet.members, models, pages, self._live.lists(), self.series, self.steps.logs, self._host,
            self._held_up_ns, self._oldest_sample_ns, now_ns - self._began_ns, self.ledger_problem, self.traces_problem,
        )  # fmt: skip
        self._oldest_sample_ns = 0
        return Snapshot(
            rid=0,
            seq=seq,
            at_ns=now_ns,
            processes=self.fleet.samples(),
            models=models,
            pages=pages,
            requests=self._live.requests(),
            requests_total=self._live.total(),
            findings=self._alarms.step(self._judge.conditions(known, now_ns), now_ns),
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
