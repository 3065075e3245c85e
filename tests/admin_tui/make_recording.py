"""Makes `data/demo.ndjson`: two minutes of a small host, as the metrics process would have told them.

A toy of the serving side produces telemetry; the real collector turns it into the feed. Run it again after a change of
the messages: `python tests/admin_tui/make_recording.py`. The same seed gives the same file.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from toy_details import MODELS, Details, ToyWatch

from admin_tui.details import Detail
from admin_tui.recording import Recorded, to_line
from bus.messages.control import Fleet, UnitStatus
from bus.messages.details import GetBus, GetHost, GetModels, GetPages, GetSteps, StepsReply
from bus.messages.observe import GetTimeline, Snapshot, Update
from bus.messages.telemetry import (
    LiveRequest,
    LiveRequests,
    Sample,
    Series,
    Timeline,
    TimelineEvent,
    TimelineKind,
)
from bus.messages.usage import HostUsage, UsageReply, UsageRow
from bus.messages.vitals import Doors, PagesView, SchedulerView, Steps, WorkerView
from bus.telemetry import LATENCY_BOUNDS
from metrics.answers import Answers
from metrics.core.collector import Collector

Said = TypeVar("Said", Snapshot, Update)
OUT = Path(__file__).parent / "data" / "demo.ndjson"
SECOND = 1_000_000_000
STEP_S = 0.1
SECONDS = 125
UP_SINCE_NS = 9_000 * SECOND  # the host had been up for a while when the recording began
SILENT_AT_S = 111.5  # from when on one worker is not heard of
LIMITS = {
    "slots": 24, "step_tokens": 2048, "inter_token_target_ms": 100, "queue_requests": 256, "queue_tokens": 1_000_000
}  # fmt: skip
UNSHOWN = "headrace_step_tokens_total"
ASKED_S = (2, 30, 60, 90, SECONDS - 1)  # when screens asked for details
TENANTS = ("acme", "acme", "globex", "initech", "batch-eval")


@dataclass
class Request:
    """A request of the toy."""

    id: int
    model: str
    tenant: str
    prompt: int
    wanted: int
    came_s: float
    cached: int
    admitted_s: float = 0.0
    first_s: float = 0.0
    computed: int = 0
    generated: int = 0
    replica: int = -1
    state: str = "waiting"


@dataclass
class Model:
    """A scheduler of the toy, and what it counts."""

    name: str
    replicas: int
    slots: int
    tokens_per_s: float
    arrivals_per_s: float
    waiting: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    events: list[TimelineEvent] = field(default_factory=list)
    steps: int = 81_000

    def count(self, name: str, amount: float = 1.0) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + amount

    def observe(self, name: str, value: float) -> None:
        counts = self.histograms.setdefault(name, [0] * (len(LATENCY_BOUNDS) + 1))
        counts[bisect_left(LATENCY_BOUNDS, value)] += 1

    def tell(self, request: Request, at_s: float, kind: TimelineKind, value: int = 0, detail: str = "") -> None:
        self.events.append(TimelineEvent(request.id, at_ns(at_s), kind, value, self.steps, detail))


def _step_seconds(worker: str, steps: int) -> Series:
    """A worker's step times: replica 1 of the small model is slower than its sibling."""
    mean = {"worker@smollm2.0.0": 0.021, "worker@smollm2.1.0": 0.026}.get(worker, 0.041)
    below = (0, steps // 3, steps // 2, steps * 9 // 10, steps)
    return Series("headrace_step_seconds", "histogram", (), steps * mean, (0.015, 0.02, 0.03, 0.05), below)


def at_ns(t: float) -> int:
    return UP_SINCE_NS + round(t * SECOND)


class Toy:
    """The host."""

    def __init__(self) -> None:
        self.random = random.Random(20)
        self.models = [
            Model("smollm2", 2, 24, 520.0, 2.1),
            Model("qwen2.5-coder-0.5b", 1, 8, 118.0, 0.42),
        ]
        self.cpu: dict[str, float] = {}
        self.details = Details(self.models, at_ns)

    def turn(self, t: float) -> None:
        """A tenth of a second."""
        for model in self.models:
            surge = 5.5 if model.replicas == 1 and t > 108 else 1.0 + 0.35 * (int(t / 17) % 2)
            if self.random.random() < model.arrivals_per_s * surge * STEP_S:
                self._arrive(model, t)
            self._admit(model, t)
            self._step(model, t)

    def _arrive(self, model: Model, t: float) -> None:
        prompt = round(self.random.lognormvariate(5.7, 0.9)) + 24
        shared = prompt // 32 * 16 if self.random.random() < 0.8 else 0
        request = Request(
            self.random.getrandbits(48), model.name, self.random.choice(TENANTS), prompt,
            round(self.random.lognormvariate(4.6, 0.6)) + 8, t, shared,
        )  # fmt: skip
        for kind, after, value in (("received", 0.0, 0), ("tokenized", 0.004, prompt), ("submitted", 0.005, 0)):
            model.tell(request, t + after, kind, value)  # type: ignore[arg-type]
        model.tell(request, t + 0.006, "queued", len(model.waiting))
        model.waiting.append(request)

    def _admit(self, model: Model, t: float) -> None:
        while model.waiting and len(model.running) < model.slots:
            request = model.waiting.pop(0)
            request.replica = len(model.running) % model.replicas
            request.admitted_s, request.state, request.computed = (
                max(t, request.came_s + 0.012),
                "prefill",
                request.cached,
            )
            model.count("headrace_prompt_tokens_total", request.prompt)
            model.count("headrace_prefix_lookup_tokens_total", request.prompt)
            model.count("headrace_prefix_hit_tokens_total", request.cached)
            model.observe("headrace_queue_seconds", request.admitted_s - request.came_s)
            model.tell(request, request.admitted_s, "admitted", request.replica)
            if request.cached:
                model.tell(request, request.admitted_s + 0.001, "hit", request.cached)
            model.running.append(request)

    def _step(self, model: Model, t: float) -> None:
        model.steps += 4
        silent = {1} if model.name == "smollm2" and t > SILENT_AT_S else set()
        running = [r for r in model.running if r.replica not in silent]
        decoding = [r for r in running if r.state == "decode"]
        step_s = 0.008 + 0.0016 * len(running) * (3 if model.replicas == 1 else 1)
        for _ in range(3):
            model.observe("headrace_step_seconds", step_s * self.random.uniform(0.9, 1.3))
        share = model.tokens_per_s * STEP_S / max(1, len(decoding))
        for request in decoding:
            drawn = min(
                request.wanted - request.generated, max(1, round(min(share, 4.0) * self.random.uniform(0.7, 1.2)))
            )
            request.generated += drawn
            model.count("headrace_output_tokens_total", drawn)
            for _ in range(drawn):
                model.observe("headrace_inter_token_seconds", STEP_S / drawn * self.random.uniform(0.6, 1.4))
            if request.generated >= request.wanted:
                self._finish(model, request, t)
        for request in running:
            if request.state == "prefill":
                self._prefill(model, request, t)

    def _prefill(self, model: Model, request: Request, t: float) -> None:
        chunk = min(256 if model.replicas == 2 else 96, request.prompt - request.computed)
        request.computed += chunk
        model.tell(request, t + 0.05, "chunk", chunk)
        if request.computed >= request.prompt:
            request.state, request.first_s, request.generated = "decode", t + 0.06, 1
            model.observe("headrace_ttft_seconds", request.first_s - request.came_s)
            model.tell(request, request.first_s, "first_token")

    def _finish(self, model: Model, request: Request, t: float) -> None:
        reason = "length" if self.random.random() < 0.3 else "stop"
        if self.random.random() < 0.05:
            model.tell(request, t, "aborted", request.generated, "client")
            model.count("headrace_requests_total:abort")
        else:
            model.tell(request, t + 0.01, "finished", request.generated, reason)
            model.count(f"headrace_requests_total:{reason}")
        model.observe("headrace_e2e_seconds", t - request.came_s)
        model.running.remove(request)

    # --- telemetry -------------------------------------------------------------------------------------------------

    def samples(self, t: float) -> Iterator[Sample]:
        """Of every process."""
        smol, qwen = self.models
        for index in range(2):
            yield self._sample(f"ingress@{index}", 0.09 + 0.03 * index, 410 + 12 * index, int(t * 9), ())
        for model in self.models:
            series = (*self._series(model, t), *self.details.series(model))
            yield self._sample(f"scheduler@{model.name}", 0.11, 96, model.steps, series)
        for name, cores, rss, work in (
            ("worker@smollm2.0.0", 0.94, 742, smol.steps), ("worker@smollm2.1.0", 0.91, 739, smol.steps),
            (f"worker@{qwen.name}.0.0", 0.98, 1_310, qwen.steps),
        ):  # fmt: skip
            if name == "worker@smollm2.1.0" and t > SILENT_AT_S:
                continue
            series = (
                Series("headrace_bus_received_total", "counter", (("door", "steps"),), work + 9),
                Series("headrace_worker_steps_total", "counter", (), work),
                Series("headrace_worker_slots", "gauge", (), 24),
                Series("headrace_worker_tokens_total", "counter", (), work * 31),
                _step_seconds(name, work),
                Series("headrace_step_tokens_total", "counter", (), work * 31),
            )
            yield self._sample(name, cores, rss, work, series, busy=True)
        yield self._sample("kv@host", 0.04, 1_190, int(t * 42), tuple(self._pages()))
        yield self._sample("metrics@host", 0.02, 71, int(t * 2), ())

    def _sample(
        self, name: str, cores: float, rss: int, work: int, series: tuple[Series, ...], *, busy: bool = False
    ) -> Sample:
        self.cpu[name] = self.cpu.get(name, 100.0) + cores * self.random.uniform(0.93, 1.04) * 0.5
        pid = 4_112 + sorted(self.cpu).index(name) * 7 if len(self.cpu) > 8 else 4_100
        started = (
            UP_SINCE_NS - 8_143 * SECOND if name != f"worker@{self.models[1].name}.0.0" else UP_SINCE_NS - 241 * SECOND
        )
        role = name.partition("@")[0]
        return Sample(
            name, role, pid, 93_216_118 + len(name), "ready", started, work, busy, round(self.cpu[name], 2), rss << 20,
            series,
        )  # fmt: skip

    def _series(self, model: Model, t: float) -> Iterator[Series]:
        label = (("model", model.name),)
        oldest = max((t - request.came_s for request in model.waiting), default=0.0)
        for name, value in (
            ("headrace_replicas", model.replicas), ("headrace_replicas_ready", model.replicas),
            ("headrace_queue_requests", len(model.waiting)), ("headrace_running_requests", len(model.running)),
            ("headrace_oldest_wait_seconds", round(oldest, 2)),
        ):  # fmt: skip
            yield Series(name, "gauge", label, value)
        for name, value in LIMITS.items():
            yield Series("headrace_limit", "gauge", (*label, ("limit", name)), value)
        for key, value in sorted(model.counters.items()):
            name, _, reason = key.partition(":")
            yield Series(name, "counter", (*label, ("reason", reason)) if reason else label, value)
        for name, counts in sorted(model.histograms.items()):
            running, buckets = 0, []
            for count in counts:
                running += count
                buckets.append(running)
            yield Series(name, "histogram", label, float(running), LATENCY_BOUNDS, tuple(buckets))

    def _pages(self) -> Iterator[Series]:
        for model, total in zip(self.models, (2_048, 1_024), strict=True):
            leased = sum((r.prompt + r.generated) // 16 + 1 for r in model.running)
            cached = min(total // 2, int(model.counters.get("headrace_prompt_tokens_total", 0)) // 64)
            pinned = sum(r.cached // 16 for r in model.running)
            free = max(0, total - leased - cached - pinned)
            for state, pages in (("free", free), ("leased", leased), ("cached", cached), ("pinned", pinned)):
                yield Series("headrace_kv_pages", "gauge", (("pool", model.name), ("state", state)), pages)

    def live(self, model: Model, t: float) -> LiveRequests:
        """A scheduler's list."""
        rows = tuple(
            LiveRequest(
                r.id, r.tenant, r.model, r.state, round((t - r.came_s) * 1e9),  # type: ignore[arg-type]
                round((r.admitted_s or t) * 1e9) - round(r.came_s * 1e9),
                round((r.first_s - r.came_s) * 1e9) if r.first_s else 0, r.prompt, r.cached, r.generated,
                round((t - r.first_s) / (r.generated - 1) * 1e9) if r.generated > 1 else 0,
                (r.prompt + r.generated) // 16 + 1 if r.admitted_s else 0,
                1 if r.tenant == "batch-eval" else 5, r.replica,
            )
            for r in (*model.running, *model.waiting)
        )  # fmt: skip
        return LiveRequests(f"scheduler@{model.name}", len(rows), rows)


def fleet(t: float) -> Fleet:
    names = (
        "ingress@0", "ingress@1", "kv@host", "metrics@host", "scheduler@qwen2.5-coder-0.5b", "scheduler@smollm2",
        "worker@qwen2.5-coder-0.5b.0.0", "worker@smollm2.0.0", "worker@smollm2.1.0",
    )  # fmt: skip
    restarted = "worker@qwen2.5-coder-0.5b.0.0"
    return Fleet(
        0,
        tuple(
            UnitStatus(n, 0, "ready", int(n == restarted), (241 if n == restarted else 8_143) + t,
                       "signal 9 (KILL)" if n == restarted else "")
            for n in names
        ),
        "/etc/headrace/headrace.toml",
    )  # fmt: skip


def recorded() -> Iterator[Recorded]:
    """The whole recording, one update a second."""
    toy, collector = Toy(), Collector(500, at_ns(0))
    answers = Answers(collector, ToyWatch(at_ns), MODELS)
    turns = round(1 / STEP_S)
    for tick in range(SECONDS * turns):
        t = tick * STEP_S
        toy.turn(t)
        if tick % (turns // 2) == 0:
            for sample in toy.samples(t):
                collector.on_sample(sample, at_ns(t))
            for model in toy.models:
                collector.on_live(toy.live(model, t), at_ns(t))
                collector.on_timeline(Timeline(f"scheduler@{model.name}", tuple(model.events)))
                model.events.clear()
        if tick % turns == 0:
            update = slim(collector.tick(at_ns(t)), full=tick % (4 * turns) == 0)
            yield Recorded(t, slim(collector.snapshot(0), full=True) if tick == 0 else update)
            if tick % (20 * turns) == 0:
                yield Recorded(t, fleet(t))
            tell(collector, toy.details, t)
            if tick // turns in ASKED_S:
                for question in (GetSteps(0), GetPages(0), GetHost(0), GetBus(0), GetModels(0)):
                    yield Recorded(t, short(answers.answer(question, at_ns(t)), whole=t > SECONDS - 2))
    yield Recorded(SECONDS - 1, usage())
    view = collector.snapshot(0)
    for request in (*(r.request for r in view.requests), *(r.request for r in view.recent[:40])):
        yield Recorded(SECONDS, collector.timeline(GetTimeline(0, request), at_ns(SECONDS)))


def usage() -> UsageReply:
    """A day of the host, as the ledger would sum it up."""
    smol = UsageRow("smollm2", 41_300, 12, 14_900_000, 9_100_000, 5_600_000, 51_200.0, 14_300.0, 0.7111)
    qwen = UsageRow("qwen2.5-coder-0.5b", 8_120, 31, 3_400_000, 1_500_000, 1_210_000, 38_900.0, 17_700.0, 0.5403)
    whole = UsageRow("", 49_420, 43, 18_300_000, 10_600_000, 6_810_000, 90_100.0, 32_000.0, 1.2514)
    host = HostUsage(86_400.0, 2_764_800.0, 0.0326, 38.4, 37.1486)
    return UsageReply(0, 0, 86_400, (smol, qwen), whole, host, currency="EUR")


def tell(collector: Collector, details: Details, t: float) -> None:
    """What processes say for the detail screens."""
    for said in details.said(t):
        if isinstance(said, Steps):
            collector.on_steps(said, at_ns(t))
        else:
            assert isinstance(said, SchedulerView | PagesView | Doors | WorkerView)
            collector.on_view(said, at_ns(t))


def short(reply: Detail, *, whole: bool) -> Detail:
    """With few step lines, but at the end."""
    if whole or not isinstance(reply, StepsReply):
        return reply
    models = tuple(msgspec.structs.replace(model, lines=model.lines[-20:]) for model in reply.models)
    return msgspec.structs.replace(reply, models=models)


def slim(said: Said, *, full: bool) -> Said:
    """Without histograms, which no screen reads, and what only details are made of; processes only now and then; few
    finished requests."""
    processes = [
        msgspec.structs.replace(p, series=tuple(s for s in p.series if s.kind != "histogram" and s.name != UNSHOWN))
        for p in said.processes or ()
    ]
    recent = said.recent[:40] if said.recent is not None else None
    return msgspec.structs.replace(said, processes=tuple(processes) if full else None, recent=recent)


def main() -> None:
    """Write the file."""
    OUT.write_bytes(b"".join(map(to_line, recorded())))
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
