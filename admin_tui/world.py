"""Everything the screens show, as of now: what the feed said and what follows from it. Pure; the time is given."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, Literal, NamedTuple, get_args

from admin_tui.acted import People, PeopleEvent
from admin_tui.details import Detail, Details
from admin_tui.glyphs import Condition
from admin_tui.keeping import Service
from bus.messages.control import Fleet, Status, UnitStatus
from bus.messages.observe import (
    Finding,
    FinishedRequest,
    ModelLoad,
    PageLoad,
    Snapshot,
    TimelineReply,
    Update,
)
from bus.messages.telemetry import LiveRequest, Sample

TREND_NS: Final = 120_000_000_000  # what sparklines show
HISTORY: Final = 300
PACE_NS: Final = 4_000_000_000  # over which a process's pace is taken
STALE_S: Final = 1.5  # three periods of the feed
NO_PAGES: Final = PageLoad(0, 0, 0, 0, 0, 0)
_CONDITIONS: Final[dict[str, Condition]] = {
    "starting": "warming", "ready": "ready", "draining": "draining", "stopped": "off", "failed": "dead",
}  # fmt: skip
_TROUBLE: Final[dict[str, Condition]] = {"late": "late", "stalled": "late", "gone": "dead", "failed": "dead"}


Trend = Literal["output", "ttft", "itl", "pages"]


class LinkUp(NamedTuple):
    """The metrics process answers."""


class LinkDown(NamedTuple):
    """The metrics process does not answer, and why."""

    reason: str


class SupervisorGone(NamedTuple):
    """There is no supervisor to ask; processes run under systemd, or the supervisor is down."""


class Services(NamedTuple):
    """Processes as units of systemd; none where it keeps none here."""

    services: tuple[Service, ...]


Event = Snapshot | Update | Fleet | Services | TimelineReply | Detail | PeopleEvent | LinkUp | LinkDown | SupervisorGone


class Pace(NamedTuple):
    """How fast a process goes: CPU in cores, progress in units a second."""

    cores: float
    progress_per_s: float


def _as_units(services: dict[str, Service]) -> dict[str, UnitStatus]:
    """As a supervisor would say it."""
    return {
        name: UnitStatus(name, each.pid, each.status, each.restarts, each.uptime_s, each.last_stop)
        for name, each in services.items()
    }


class World:
    """What is known now.

    Attributes:
        heard_ns: when the feed last said anything, on the screen's clock; 0 before it did.
        down: why the metrics process does not answer; empty where it does.
        units: processes as the supervisor, or systemd, sees them; empty without either.
        services: where systemd keeps the processes, its units, by process.
        details: what was asked for beyond the feed.
        people: who looks, what others did and said; logs; and how processes are while the metrics process is silent.
    """

    def __init__(self) -> None:
        self.heard_ns = 0
        self.down = "connecting"
        self.supervised = False
        self.at_ns = 0
        self.seq = 0
        self.processes: dict[str, Sample] = {}
        self.models: tuple[ModelLoad, ...] = ()
        self.pages = NO_PAGES
        self.requests: tuple[LiveRequest, ...] = ()
        self.requests_total = 0
        self.findings: tuple[Finding, ...] = ()
        self.recent: tuple[FinishedRequest, ...] = ()
        self.units: dict[str, UnitStatus] = {}
        self.services: dict[str, Service] = {}
        self.timeline: TimelineReply | None = None
        self.details = Details()
        self.people = People()
        self._history: dict[Trend, deque[tuple[int, float]]] = {name: deque(maxlen=HISTORY) for name in get_args(Trend)}
        self._in_hand: Counter[tuple[str, int]] = Counter()
        self._marks: dict[str, deque[tuple[int, int, float, int]]] = {}

    def apply(self, event: Event, now_ns: int) -> None:
        """Something was said."""
        if isinstance(event, Detail):
            self.details.take(event, now_ns)
            return
        if isinstance(event, PeopleEvent):
            self.people.take(event)
            return
        match event:
            case Snapshot() | Update():
                self._take(event, now_ns)
            case Fleet():
                self.supervised = True
                self.units, self.services = {unit.name: unit for unit in event.units}, {}
            case SupervisorGone():
                self.supervised = False
                self.units = _as_units(self.services)
            case Services() if not self.supervised:
                self.services = {service.process: service for service in event.services}
                self.units = _as_units(self.services)
            case TimelineReply():
                self.timeline = event
            case LinkUp():
                self.down = ""
            case LinkDown():
                self.down = event.reason or "does not answer"

    def _take(self, said: Snapshot | Update, now_ns: int) -> None:
        self.heard_ns, self.down = now_ns, ""
        self.seq, self.at_ns, self.requests_total = said.seq, said.at_ns, said.requests_total
        if said.processes is not None:
            self.processes = {sample.name: sample for sample in said.processes}
            self._mark()
        self.models = said.models if said.models is not None else self.models
        self.pages = said.pages if said.pages is not None else self.pages
        if said.requests is not None:
            self.requests = said.requests
            self._in_hand = Counter((live.model, live.replica) for live in said.requests)
        self.findings = said.findings if said.findings is not None else self.findings
        self.recent = said.recent if said.recent is not None else self.recent
        self._remember()

    def _remember(self) -> None:
        now: dict[Trend, float] = {
            "output": self.output_per_s(),
            "ttft": max((model.ttft_p95_s for model in self.models), default=0.0),
            "itl": max((model.itl_p95_s for model in self.models), default=0.0),
            "pages": self.pages_used(),
        }
        for trend, value in now.items():
            self._history[trend].append((self.at_ns, value))

    def _mark(self) -> None:
        """Points that paces are taken between: only where there are new samples, or they would read as idle."""
        for name in self._marks.keys() - self.processes.keys():
            del self._marks[name]
        for name, sample in self.processes.items():
            marks = self._marks.setdefault(name, deque())
            if marks and marks[-1][1] != sample.epoch:
                marks.clear()
            marks.append((self.at_ns, sample.epoch, sample.cpu_s, sample.progress))
            while len(marks) > 2 and marks[1][0] <= self.at_ns - PACE_NS:
                marks.popleft()

    def trend(self, name: Trend, width: int) -> list[float]:
        """The last two minutes in `width` columns, each the mean of its time.

        Columns stand at fixed times, so that a picture moves by whole columns and does not shimmer.
        """
        column_ns = TREND_NS // width
        first = self.at_ns // column_ns - width + 1
        columns: list[list[float]] = [[] for _ in range(width)]
        for at, value in self._history[name]:
            if 0 <= (index := at // column_ns - first) < width:
                columns[index].append(value)
        drawn, latest = [], 0.0
        for values in columns:
            latest = sum(values) / len(values) if values else latest
            drawn.append(latest)
        return drawn

    def age_s(self, now_ns: int) -> float:
        """Seconds since the feed spoke; 0 before it ever did."""
        return max(0.0, (now_ns - self.heard_ns) / 1e9) if self.heard_ns else 0.0

    def stale(self, now_ns: int) -> bool:
        """Whether what is shown is no longer now."""
        return self.heard_ns == 0 or bool(self.down) or self.age_s(now_ns) > STALE_S

    def output_per_s(self) -> float:
        """Output tokens a second, all models."""
        return sum(model.output_tokens_per_s for model in self.models)

    def pages_used(self) -> float:
        """Share of the arena that cannot be given out; cached pages can."""
        pages = self.pages
        return 1 - (pages.free + pages.cached) / pages.total if pages.total else 0.0

    def pace(self, name: str) -> Pace:
        """Of a process over the last seconds; zero where it was seen once."""
        marks = self._marks.get(name)
        if not marks or marks[-1][0] == marks[0][0]:
            return Pace(0.0, 0.0)
        (began, _, cpu0, progress0), (ended, _, cpu1, progress1) = marks[0], marks[-1]
        seconds = (ended - began) / 1e9
        return Pace(max(0.0, cpu1 - cpu0) / seconds, max(0, progress1 - progress0) / seconds)

    def in_hand(self, model: str, replica: int) -> int:
        """Requests that are listed and on this replica."""
        return self._in_hand[model, replica]

    def names(self) -> list[str]:
        """Processes that are there, or that the supervisor says should be."""
        return sorted(self.processes.keys() | self.units.keys() | self.vitals.keys())

    @property
    def vitals(self) -> dict[str, Status]:
        """What processes say at their control doors; empty while the metrics process knows better."""
        return self.people.vitals

    def condition(self, name: str) -> Condition:
        """Of a process, the worst that is known."""
        if self.vitals:
            vital = self.vitals.get(name)
            return _CONDITIONS[vital.state] if vital is not None else "late"
        for finding in self.findings:
            if finding.subject == name and finding.code in _TROUBLE:
                return _TROUBLE[finding.code]
        unit, sample = self.units.get(name), self.processes.get(name)
        if unit is not None and (sample is None or unit.state in ("failed", "stopped")):
            return _CONDITIONS[unit.state]
        return _CONDITIONS[sample.state] if sample is not None else "off"

    def model(self, name: str) -> ModelLoad | None:
        """The line of a model."""
        return next((model for model in self.models if model.model == name), None)

    def limits(self, model: str) -> dict[str, float]:
        """Limits in force, as its scheduler says; empty where it has not."""
        sample = self.processes.get(f"scheduler@{model}")
        series = sample.series if sample is not None else ()
        return {dict(each.labels)["limit"]: each.value for each in series if each.name == "headrace_limit"}

    def live_request(self, request: int) -> LiveRequest | None:
        """A request in a scheduler's hands."""
        return next((live for live in self.requests if live.request == request), None)
