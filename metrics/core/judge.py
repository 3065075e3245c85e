"""All rules over all that is known, once a tick. Pure; the rules themselves are in `rules`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bus.messages.observe import ModelLoad, PageLoad
from bus.messages.telemetry import LiveRequests
from metrics.core.findings import Condition
from metrics.core.fleet import Member
from metrics.core.rules.accounts import account_conditions, own_conditions
from metrics.core.rules.host import HostView, host_conditions
from metrics.core.rules.models import ModelWatch, Targets, Told, pace_conditions
from metrics.core.rules.pages import page_conditions, page_troubles
from metrics.core.rules.processes import (
    SETTLED_NS,
    IdleWatch,
    absent_conditions,
    behind_conditions,
    process_conditions,
)
from metrics.core.series import SeriesStore
from metrics.core.steps import StepLog

_SCHEDULER: Final = "scheduler@"
CPU_WINDOW_NS: Final = 4_000_000_000


class Settings(NamedTuple):
    """What is configured.

    Attributes:
        expected: processes that should be there.
        standbys: processes that should wait, each as a standby of its worker.
    """

    targets: Targets = Targets()
    expected: tuple[str, ...] = ()
    standbys: tuple[str, ...] = ()


NO_SETTINGS: Final = Settings()


class Known(NamedTuple):
    """Everything that rules look at.

    Attributes:
        lists: what schedulers say of their requests, by scheduler.
        held_up_ns: that this look comes too late.
        oldest_sample_ns: age of the oldest sample since the last look, when it came.
        watched_ns: since when anybody looks.
        ledger_problem, traces_problem: why usage cannot be written, or spans sent; empty where they can.
    """

    members: dict[str, Member]
    models: tuple[ModelLoad, ...]
    pages: PageLoad
    lists: Mapping[str, LiveRequests]
    series: SeriesStore
    steps: Mapping[str, StepLog]
    host: HostView | None
    held_up_ns: int
    oldest_sample_ns: int
    watched_ns: int
    ledger_problem: str = ""
    traces_problem: str = ""


class Judge:
    """The rules, with what some of them remember."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watches: dict[str, ModelWatch] = {}
        self._idle = IdleWatch()
        self._cpu: dict[str, tuple[int, int, float]] = {}  # by process: epoch, when, CPU seconds then
        self._cores: dict[str, float] = {}

    def conditions(self, known: Known, now_ns: int) -> Iterator[Condition]:
        """What is wrong now."""
        for name, member in known.members.items():
            yield from process_conditions(name, member, now_ns)
        if known.watched_ns > SETTLED_NS:
            yield from absent_conditions(self._settings.expected, self._settings.standbys, known.members)
        yield from behind_conditions(known.held_up_ns, known.oldest_sample_ns)
        idle = bool(known.models) and not any(load.running or load.waiting for load in known.models)
        yield from self._idle.conditions(known.members, now_ns, idle=idle)
        yield from self._models(known, now_ns)
        preemptions = sum(load.preemptions_per_s for load in known.models)
        yield from page_conditions(known.pages, preemptions, page_troubles(known.series, now_ns))
        yield from account_conditions(known.series, now_ns)
        yield from own_conditions(known.ledger_problem, known.traces_problem)
        self._measure_cores(known.members, now_ns)
        if known.host is not None:
            yield from host_conditions(known.host, sum(self._cores.values()))

    def _models(self, known: Known, now_ns: int) -> Iterator[Condition]:
        for load in known.models:
            watch = self._watches.setdefault(load.model, ModelWatch())
            told = _told(known.lists.get(_SCHEDULER + load.model), now_ns)
            yield from watch.conditions(load, now_ns, self._settings.targets, told)
            if (log := known.steps.get(_SCHEDULER + load.model)) is not None:
                yield from pace_conditions(load.model, log.lines, now_ns)
        for model in self._watches.keys() - {load.model for load in known.models}:
            del self._watches[model]

    def _measure_cores(self, members: dict[str, Member], now_ns: int) -> None:
        for name, member in members.items():
            epoch, since_ns, cpu_s = self._cpu.get(name, (-1, 0, 0.0))
            sample = member.sample
            if member.gone or epoch != sample.epoch:
                self._cpu[name] = (sample.epoch, now_ns, sample.cpu_s)
                self._cores.pop(name, None)
            elif now_ns - since_ns >= CPU_WINDOW_NS:
                self._cores[name] = (sample.cpu_s - cpu_s) / ((now_ns - since_ns) / 1e9)
                self._cpu[name] = (sample.epoch, now_ns, sample.cpu_s)
        for name in self._cpu.keys() - members.keys():
            del self._cpu[name]
            self._cores.pop(name, None)


def _told(listed: LiveRequests | None, now_ns: int) -> Told:
    if listed is None:
        return Told()
    stuck_s = (now_ns - listed.stuck_ns) / 1e9 if listed.stuck_ns else 0.0
    deadline_s = max(0.0, (listed.deadline_ns - now_ns) / 1e9) if listed.deadline_ns else -1.0
    return Told(listed.stuck, stuck_s, deadline_s)
