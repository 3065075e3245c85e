"""Every alarm: what fires it, and what is near and must not. The catalogue, the rules and the tests name the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.messages.telemetry import LiveRequests, Sample, Series
from bus.messages.vitals import StepLine, Steps
from metrics.core.collector import Collector
from metrics.core.fleet import SECOND
from metrics.core.judge import Settings
from metrics.core.rules import host
from metrics.core.rules.catalogue import ALARMS
from metrics.core.rules.host import CRASH_S, Crash, HostView, Room
from metrics.core.rules.models import Targets

RULES = Path(host.__file__).parent
MODEL = (("model", "m"),)
WORKER = "worker@m.0.0"
SCHEDULER = "scheduler@m"
CALM = HostView(8, 2.0, 0.0, 16 << 30, 8 << 30, 0.0, (Room("host", "/var/lib/headrace", 50 << 30, 100 << 30),))


class Stage:
    """A small stack that is well, and what the test changes of it, over time at 2 Hz.

    Attributes:
        samples: of each process, as it says them now; one that is taken out falls silent.
    """

    def __init__(self, **settings: object) -> None:
        self.now = SECOND
        known = {"expected": ("kv@host", SCHEDULER, WORKER), "targets": Targets(2.0, 0.5, 30.0)}
        self.collector = Collector(10, self.now, Settings(**{**known, **settings}))  # type: ignore[arg-type]
        self.samples = {name: sample(name) for name in ("kv@host", SCHEDULER, WORKER, "ingress@0")}
        self.live = LiveRequests(SCHEDULER, 0, ())
        self.host = CALM
        self.cpu: dict[str, float] = {}  # cores that a process uses
        self.gauges: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
        self.counters: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
        self.histograms: dict[str, float] = {}  # observations of a second are so long
        self.counts: dict[str, float] = {}
        self.steps: list[StepLine] = []
        self.number = 0
        self.gauge(SCHEDULER, "headrace_replicas", 1)
        self.gauge(SCHEDULER, "headrace_replicas_ready", 1)

    def gauge(self, process: str, name: str, value: float, *labels: tuple[str, str]) -> None:
        self.gauges[process, name, labels or MODEL] = value

    def count(self, process: str, name: str, per_s: float, *labels: tuple[str, str]) -> None:
        self.counters[process, name, labels or MODEL] = per_s

    def run(self, seconds: float) -> set[str]:
        """Time passes; the codes that were found at its end."""
        return {finding.code for finding in self.findings(seconds)}

    def findings(self, seconds: float) -> tuple[object, ...]:
        for _ in range(int(2 * seconds)):
            self.now += SECOND // 2
            self._say()
            self.collector.on_host(self.host)
            self.collector.tick(self.now)
        return self.collector.snapshot(0).findings

    def _say(self) -> None:
        for name, said in list(self.samples.items()):
            cpu_s = said.cpu_s + self.cpu.get(name, 0.0) / 2
            series = [Series(n, "gauge", labels, value) for (p, n, labels), value in self.gauges.items() if p == name]
            series += list(self._counted(name))
            series += list(self._observed()) if name == SCHEDULER else []
            said = msgspec.structs.replace(said, cpu_s=cpu_s, series=tuple(series), at_ns=self.now)
            self.samples[name] = said
            self.collector.on_sample(said, self.now)
        self.collector.on_live(self.live, self.now)
        if self.steps:
            self.collector.on_steps(Steps(SCHEDULER, "m", self.number, tuple(self._stepped())), self.now)

    def _counted(self, process: str) -> Iterator[Series]:
        for (owner, name, labels), per_s in self.counters.items():
            if owner == process:
                self.counts[name] = self.counts.get(name, 0.0) + per_s / 2
                yield Series(name, "counter", labels, self.counts[name])

    def _observed(self) -> Iterator[Series]:
        bounds = (0.1, 1.0, 10.0, 100.0)
        for name, value in self.histograms.items():
            count = int(self.counts.get(name, 0.0)) + 5
            self.counts[name] = count
            buckets = tuple(count if value <= bound else 0 for bound in bounds)
            yield Series(name, "histogram", MODEL, value * count, bounds, (*buckets, count))

    def _stepped(self) -> Iterator[StepLine]:
        for line in self.steps:
            self.number += 1
            yield msgspec.structs.replace(line, step=self.number, at_ns=self.now)


def sample(name: str, **changes: object) -> Sample:
    said = Sample(name, name.partition("@")[0], 1, 1, "ready", 0, 0, False, 0.0, 1, ())
    return msgspec.structs.replace(said, **changes)


def change(stage: Stage, name: str, **changes: object) -> None:
    stage.samples[name] = msgspec.structs.replace(stage.samples[name], **changes)


def step(ran_ms: float, predicted_ms: float) -> StepLine:
    return StepLine(
        0, 1, 0, int(ran_ms * 1e6), int(predicted_ms * 1e6), 0, 0, 0, 0, 4, 4, 0, 0, (), 0, 0, "demand"
    )  # fmt: skip


# --- each fires, and what is near does not -------------------------------------------------------------------------


def failed(stage: Stage) -> None:
    change(stage, WORKER, state="failed")


def silent(stage: Stage) -> None:
    del stage.samples[WORKER]


def crashed(stage: Stage) -> None:
    old = Crash(SCHEDULER, "/s/crashes/old.tar.gz", CRASH_S)
    stage.host = stage.host._replace(crashes=(old, Crash(WORKER, "/s/crashes/new.tar.gz", 5.0)))


def stalled(stage: Stage) -> None:
    change(stage, "kv@host", busy=True)


def restarting(stage: Stage) -> None:
    for epoch in (2, 3, 4):
        stage.run(1)
        change(stage, WORKER, epoch=epoch)
    stage.run(1)


def never_came(stage: Stage) -> None:
    del stage.samples[WORKER]
    stage.collector.fleet.members.clear()


def refuses(stage: Stage) -> None:
    change(stage, "ingress@0", troubles=("scheduler@m refuses us: protocol",))


def held_up(stage: Stage) -> None:
    stage.run(1)
    for _ in range(4):  # it is stopped again and again
        stage.now += 4 * SECOND
        stage.run(0.5)


def spins(stage: Stage) -> None:
    stage.cpu[WORKER] = 0.9


def no_replica(stage: Stage) -> None:
    stage.gauge(SCHEDULER, "headrace_replicas_ready", 0)


def half_the_replicas(stage: Stage) -> None:
    stage.gauge(SCHEDULER, "headrace_replicas", 2)


def stuck(stage: Stage) -> None:
    stage.live = LiveRequests(SCHEDULER, 1, (), "worker@m.0.0 is stopped", stage.now)


def queue_grows(stage: Stage) -> None:
    for waiting in range(40):
        stage.gauge(SCHEDULER, "headrace_queue_requests", waiting)
        stage.run(0.5)


def waits_long(stage: Stage) -> None:
    stage.gauge(SCHEDULER, "headrace_oldest_wait_seconds", 31)


def about_to_miss(stage: Stage) -> None:
    stage.live = LiveRequests(SCHEDULER, 1, (), deadline_ns=stage.now + 12 * SECOND)


def refused(stage: Stage) -> None:
    stage.count(SCHEDULER, "headrace_refused_total", 2, *MODEL, ("code", "overloaded"))


def slow_first(stage: Stage) -> None:
    stage.histograms["headrace_ttft_seconds"] = 5.0


def slow_tokens(stage: Stage) -> None:
    stage.histograms["headrace_inter_token_seconds"] = 0.9


def slow_steps(stage: Stage) -> None:
    stage.steps = [step(50, 25)] * 4


def fewer_hits(stage: Stage) -> None:
    stage.count(SCHEDULER, "headrace_prefix_lookup_tokens_total", 100)
    stage.count(SCHEDULER, "headrace_prefix_hit_tokens_total", 80)
    stage.run(20)
    stage.count(SCHEDULER, "headrace_prefix_hit_tokens_total", 10)


def pages(stage: Stage, **states: int) -> None:
    for state in ("free", "leased", "pinned", "cached", "quarantined"):
        stage.gauge("kv@host", "headrace_kv_pages", states.get(state, 0), ("state", state))
    stage.gauge("kv@host", "headrace_kv_slabs_free", 0)


def no_pages(stage: Stage) -> None:
    pages(stage, leased=98, free=2)


def quarantined(stage: Stage) -> None:
    pages(stage, free=90, quarantined=10)


def audit_fails(stage: Stage) -> None:
    stage.gauge("kv@host", "headrace_kv_audit_faults", 2)


def disk_fails(stage: Stage) -> None:
    stage.gauge("kv@host", "headrace_kv_disk_usable", 1, ("way", "read"))
    stage.gauge("kv@host", "headrace_kv_disk_usable", 0, ("way", "write"))


def disk_lies(stage: Stage) -> None:
    stage.count("kv@host", "headrace_kv_disk_errors_total", 1, ("kind", "damaged"))


def no_memory(stage: Stage) -> None:
    stage.host = CALM._replace(memory_available=300 << 20)


def swapping(stage: Stage) -> None:
    stage.host = CALM._replace(memory_waits=0.3)


def no_room(stage: Stage) -> None:
    stage.host = CALM._replace(rooms=(Room("host", "/var/lib/headrace", 20 << 20, 100 << 30),))


def stolen(stage: Stage) -> None:
    stage.host = CALM._replace(stolen=2.0)


def crowded(stage: Stage) -> None:
    stage.cpu[WORKER] = 3.0
    stage.gauge(SCHEDULER, "headrace_running_requests", 2)
    stage.host = CALM._replace(busy=8.0)


def unprotected(stage: Stage) -> None:
    stage.count("ingress@0", "headrace_ingress_unprotected_total", 1, ("reason", "room"))


def spooled(stage: Stage) -> None:
    stage.gauge("ingress@0", "headrace_usage_spool_records", 5000, ("x", "y"))


def dropped(stage: Stage) -> None:
    stage.count("ingress@0", "headrace_usage_dropped_total", 3, ("x", "y"))


def ledger_stuck(stage: Stage) -> None:
    stage.collector.ledger_problem = "database or disk is full"


def untraced(stage: Stage) -> None:
    stage.collector.traces_problem = "opentelemetry is not installed"


FIRES = [
    (failed, "failed", 3), (crashed, "crashed", 1), (silent, "late", 8), (silent, "gone", 20), (stalled, "stalled", 9),
    (restarting, "restart-loop", 3), (never_came, "missing", 100), (refuses, "protocol", 8),
    (held_up, "metrics-behind", 0.5), (spins, "idle-burn", 130), (no_replica, "no-replica", 17),
    (half_the_replicas, "replicas-missing", 32), (stuck, "standing-still", 7), (queue_grows, "queue-growing", 1),
    (waits_long, "queue-slow", 3), (about_to_miss, "deadline-near", 11), (refused, "refusing", 4),
    (slow_first, "ttft-high", 25), (slow_tokens, "itl-high", 25), (slow_steps, "steps-slow", 20),
    (fewer_hits, "prefix-hits-dropped", 20), (no_pages, "pages-exhausted", 3),
    (quarantined, "pages-quarantined", 63), (audit_fails, "kv-audit", 1), (disk_fails, "kv-disk-off", 3),
    (disk_lies, "kv-disk-damaged", 3), (no_memory, "memory-low", 12), (swapping, "memory-low", 12),
    (no_room, "disk-full", 7), (stolen, "cpu-steal", 23), (crowded, "cpu-crowded", 30),
    (unprotected, "streams-unprotected", 3), (spooled, "ledger-behind", 63), (dropped, "ledger-lost", 3),
    (ledger_stuck, "ledger-stuck", 3), (untraced, "traces-off", 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("trouble", "code", "seconds"), FIRES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_each_trouble_is_found_and_is_the_only_one(trouble: object, code: str, seconds: float) -> None:
    """And nothing was found before it; what is told has all that an operator needs."""
    stage = Stage()
    assert stage.run(40) == set()
    trouble(stage)  # type: ignore[operator]
    found = stage.findings(seconds)
    # A process that falls silent is late before it is gone, and what is held up hears old samples.
    assert code in {finding.code for finding in found} <= {code, "late", "gone"}  # type: ignore[attr-defined]
    (finding,) = [one for one in found if one.code == code]  # type: ignore[attr-defined]
    assert finding.id == f"{code}:{finding.subject}"  # type: ignore[attr-defined]
    assert all((finding.text, finding.advice, finding.action, finding.key))  # type: ignore[attr-defined]


def test_a_standby_that_does_not_wait_is_told_and_one_that_waits_is_not() -> None:
    stage = Stage(standbys=("standby@m.0.0",))
    stage.samples["standby@m.0.0"] = sample("standby@m.0.0")
    assert stage.run(200) == set()
    change(stage, "standby@m.0.0", state="starting")
    assert stage.run(100) == set()  # it takes its time
    assert stage.run(30) == {"standby-missing"}


def worker_in_a_long_step(stage: Stage) -> None:
    change(stage, WORKER, busy=True)
    change(stage, SCHEDULER, busy=True)


def busy_at_work(stage: Stage) -> None:
    stage.cpu[WORKER] = 2.0
    stage.gauge(SCHEDULER, "headrace_running_requests", 3)


def a_short_outage(stage: Stage) -> None:
    stage.gauge(SCHEDULER, "headrace_replicas_ready", 0)
    stage.run(10)
    stage.gauge(SCHEDULER, "headrace_replicas_ready", 1)


def one_restart(stage: Stage) -> None:
    change(stage, WORKER, state="draining")
    stage.run(2)
    change(stage, WORKER, state="stopped")
    stage.run(1)
    change(stage, WORKER, epoch=2, state="starting", cpu_s=0.0)
    stage.run(8)
    change(stage, WORKER, state="ready")


def a_queue_that_moves(stage: Stage) -> None:
    stage.gauge(SCHEDULER, "headrace_queue_requests", 7)
    stage.gauge(SCHEDULER, "headrace_oldest_wait_seconds", 20)


def steps_as_foreseen(stage: Stage) -> None:
    stage.steps = [step(50, 45)] * 4


def few_slow_steps(stage: Stage) -> None:
    stage.steps = [step(500, 50)]


def a_full_cache(stage: Stage) -> None:
    pages(stage, leased=30, pinned=20, cached=50)


def a_deadline_far_away(stage: Stage) -> None:
    stage.live = LiveRequests(SCHEDULER, 1, (), deadline_ns=stage.now + 600 * SECOND)


def all_cores_are_ours(stage: Stage) -> None:
    stage.cpu[WORKER] = 7.5
    stage.gauge(SCHEDULER, "headrace_running_requests", 3)
    stage.host = CALM._replace(busy=8.0)


def a_small_disk_with_room(stage: Stage) -> None:
    stage.host = CALM._replace(rooms=(Room("host", "/var", 200 << 20, 1 << 30),))


def a_pause_of_the_metrics_process(stage: Stage) -> None:
    stage.now += 6 * SECOND  # once: it says so for a moment at most


QUIET = [
    worker_in_a_long_step, busy_at_work, a_short_outage, one_restart, a_queue_that_moves,
    steps_as_foreseen, few_slow_steps, a_full_cache, a_deadline_far_away, all_cores_are_ours, a_small_disk_with_room,
    a_pause_of_the_metrics_process,
]  # fmt: skip


@pytest.mark.parametrize("near", QUIET, ids=lambda value: value.__name__)
def test_what_is_near_is_no_finding(near: object) -> None:
    stage = Stage()
    stage.run(40)
    near(stage)  # type: ignore[operator]
    for _ in range(60):
        assert stage.run(1) == set()


def test_findings_end_when_the_trouble_is_over_and_keep_their_id() -> None:
    stage = Stage()
    stage.run(1)
    no_pages(stage)
    (first,) = stage.findings(3)
    a_full_cache(stage)
    assert stage.run(10) == set()
    no_pages(stage)
    (again,) = stage.findings(3)
    assert first.id == again.id  # type: ignore[attr-defined]


def test_catalogue_rules_and_tests_name_the_same_codes() -> None:
    said = {
        node.args[0].value
        for path in RULES.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Condition"
    }  # type: ignore[attr-defined]
    tested = {code for _, code, _ in FIRES} | {"standby-missing"}
    assert said == tested
    assert said == ALARMS.keys()
