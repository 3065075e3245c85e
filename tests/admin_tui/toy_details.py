"""What the toy of `make_recording` says for the detail screens, out of what it does. Draws from a source of its own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bus.config import ModelConfig
from bus.messages.details import Core, Memory, Node, Pressure
from bus.messages.telemetry import Series
from bus.messages.vitals import (
    MAP_STATES,
    Door,
    DoorPeer,
    Doors,
    Holder,
    HotPrefix,
    Knob,
    PagesView,
    PoolView,
    QueueClass,
    ReplicaView,
    SchedulerView,
    StepBound,
    StepLine,
    Steps,
    WorkerView,
)
from metrics.host.places import Place
from metrics.host.watch import Machine

if TYPE_CHECKING:
    from make_recording import Model, Request

MIB = 1 << 20
SLAB = 32 * MIB
SLABS = 60
PAGE = {"smollm2": 360 << 10, "qwen2.5-coder-0.5b": 192 << 10}
PAGES_OF_SLAB = {name: SLAB // size for name, size in PAGE.items()}
PHASES = {"plan": 0.0004, "send": 0.0001, "compute": 0.024, "gather": 0.0007, "apply": 0.0003}
PHASE_BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
MODELS = (
    ModelConfig(name="smollm2", source="catalog:smollm2-135m-instruct", replicas=2, slots=24, threads=8),
    ModelConfig(name="qwen2.5-coder-0.5b", source="catalog:qwen2.5-coder-0.5b-instruct", slots=8, threads=12),
)


class Details:
    """Everything that processes of the toy say beyond samples."""

    def __init__(self, models: list[Model], now_ns: Any) -> None:
        self.random = random.Random(21)
        self.models, self.now_ns = models, now_ns
        self.phases: dict[tuple[str, str], list[int]] = {}
        self.totals: dict[str, int] = {}

    def said(self, t: float) -> Iterator[Any]:
        """Once a second."""
        for model in self.models:
            lines = tuple(self._lines(model, t))
            self.totals[model.name] = self.totals.get(model.name, 81_000) + len(lines)
            yield Steps(f"scheduler@{model.name}", model.name, self.totals[model.name], lines)
            yield self._view(model, t)
        yield self._pages()
        yield from self._doors(t)
        yield from self._workers()

    def series(self, model: Model) -> Iterator[Series]:
        """What its scheduler times."""
        for (name, part), counts in self.phases.items():
            if name == model.name:
                buckets = [sum(counts[: end + 1]) for end in range(len(counts))]
                labels = (("model", name), ("part", part))
                yield Series("headrace_step_phase_seconds", "histogram", labels, 1.0, PHASE_BOUNDS, tuple(buckets))

    # --- schedulers ------------------------------------------------------------------------------------------------

    def _lines(self, model: Model, t: float) -> Iterator[StepLine]:
        draw = self.random
        for index in range(12):
            prefilling = [r for r in model.running if r.state == "prefill"]
            decodes = sum(1 for r in model.running if r.state == "decode")
            share = draw.random() < 0.45 and prefilling
            chunks = tuple((r.id, draw.randrange(40, 200)) for r in prefilling[:3]) if share else ()
            tokens = sum(count for _, count in chunks)
            ran = round((0.008 + 0.0012 * decodes + 0.00009 * tokens) * draw.uniform(0.9, 1.25) * 1e9)
            at = self.now_ns(t) - (11 - index) * 83_000_000
            for part, mean in PHASES.items():
                self._observe(model.name, part, mean * draw.uniform(0.6, 1.7))
            yield StepLine(
                draw.randrange(model.replicas), 81_000 + round(t * 12) + index, at, ran,
                round(ran * draw.uniform(0.9, 1.1)), draw.randrange(20_000, 3_000_000), 380_000, 240_000, 600_000,
                decodes + len(chunks), decodes, tokens,
                len(chunks), chunks, len(model.waiting), 0, self._bound(model, tokens),
            )  # fmt: skip

    def _bound(self, model: Model, tokens: int) -> StepBound:
        if model.waiting:
            return "slots"
        if tokens > 300:
            return "token_budget"
        return "inter_token_target" if tokens > 160 else "pipeline" if self.random.random() < 0.03 else "demand"

    def _observe(self, model: str, part: str, value: float) -> None:
        counts = self.phases.setdefault((model, part), [0] * (len(PHASE_BOUNDS) + 1))
        counts[sum(1 for bound in PHASE_BOUNDS if value > bound)] += 1

    def _view(self, model: Model, t: float) -> SchedulerView:
        classes = tuple(
            QueueClass(
                priority,
                len(waiting := [r for r in model.waiting if (r.tenant == "batch-eval") == (priority == 5)]),
                0,
                sum(1 for r in model.running if (r.tenant == "batch-eval") == (priority == 5)),
                round(max((t - r.came_s for r in waiting), default=0.0) * 1e9),
            )
            for priority in (0, 5)
        )
        knobs = (
            Knob("slots", model.slots, "requests", model.slots),
            Knob("step_tokens", 512, "tokens", 512),
            Knob("inter_token_target_ms", 250, "ms", 250),
            Knob("queue_requests", 256, "requests", 256),
            Knob("queue_tokens", 262_144, "tokens", 262_144),
        )
        return SchedulerView(
            f"scheduler@{model.name}", model.name, 16, classes, knobs,
            tuple(self._replica(model, number) for number in range(model.replicas)),
            tuple(self._prefixes(model, t)),
        )  # fmt: skip

    def _replica(self, model: Model, number: int) -> ReplicaView:
        running = [r for r in model.running if r.replica == number]
        backlog = sum(r.prompt - r.computed for r in running)
        return ReplicaView(
            number, True, False, False, len(running), model.slots, 2 if running else 0, 512, backlog, 8e6, 9e4
        )

    def _prefixes(self, model: Model, t: float) -> Iterator[HotPrefix]:
        for rank, tokens in enumerate((2_752, 1_024, 640, 96, 48)):
            digest = random.Random(f"{model.name}{rank}").randbytes(16)
            refs = len([r for r in model.running if r.cached]) // (rank + 1)
            since = self.now_ns(-7_860 / (rank + 1))
            yield HotPrefix(digest, tokens, refs, 280.0 / (rank + 1) ** 1.4, since, self.now_ns(t - 0.4 * rank))

    # --- pages -----------------------------------------------------------------------------------------------------

    def _pages(self) -> PagesView:
        pools, cells, used, holders = [], bytearray(), bytearray(), []
        for number, model in enumerate(self.models, start=1):
            slabs = 23 if number == 1 else 12
            per_slab = PAGES_OF_SLAB[model.name]
            total = slabs * per_slab
            leased = sum(self._pages_of(r) for r in model.running)
            pinned = sum(r.cached // 16 for r in model.running)
            cached = min(total - leased - pinned, round(0.34 * total))
            free = total - leased - pinned - cached
            pools.append(
                PoolView(
                    number, (f"scheduler@{model.name}",), PAGE[model.name], slabs, SLABS * per_slab, total, free,
                    leased, pinned, cached, 0, 0,
                )
            )  # fmt: skip
            holders.append(Holder(f"scheduler@{model.name}", "scheduler", 93_216_135, 4_120, leased, pinned, False))
            order = [("leased", leased), ("pinned", pinned), ("cached", cached), ("free", free)]
            for at in range(slabs):
                middle, state = (at + 0.5) * per_slab, "free"
                for name, count in order:
                    if middle < count:
                        state = name
                        break
                    middle -= count
                cells.append(MAP_STATES.index(state))
                used.append(0 if state == "free" else self.random.randrange(150, 256))
        unused = SLABS - len(cells)
        holders.append(
            Holder("scheduler@smollm2", "scheduler", 93_216_101, 0, 12, 0, True, ("worker@smollm2.1.0",))
        )  # fmt: skip
        return PagesView(
            "kv@host", SLABS * SLAB + 40 * MIB, SLAB, SLABS, unused, tuple(pools), tuple(holders),
            bytes(cells) + bytes(unused), bytes(used) + bytes(unused), SLAB, False,
        )  # fmt: skip

    def _pages_of(self, request: Request) -> int:
        return (request.prompt - request.cached + request.generated) // 16 + 1

    # --- the bus ---------------------------------------------------------------------------------------------------

    def _doors(self, t: float) -> Iterator[Doors]:
        for model in self.models:
            workers = [f"worker@{model.name}.{number}.0" for number in range(model.replicas)]
            steps = round(9_000 + 12.4 * t) * model.replicas
            yield Doors(
                f"scheduler@{model.name}",
                (
                    self._door("requests", ("ingress@0", "ingress@1"), round(4_000 + 9 * t), round(90_000 + 410 * t)),
                    self._door("steps", workers, steps, steps),
                    self._door("control", (), round(t / 2), round(t / 2)),
                ),
            )
        yield Doors("ingress@0", (self._door("clients", (), 0, 0), self._door("control", (), 12, 12)))
        kv_peers = [f"scheduler@{model.name}" for model in self.models]
        pages = self._door("pages", kv_peers, round(60_000 + 42 * t), round(60_000 + 42 * t), kind="SEQPACKET")
        yield Doors("kv@host", (pages,))
        yield Doors(
            "metrics@host",
            (
                Door("telemetry", "SUB", 9, round(30_000 + 34 * t), 0, 0, 0, 0, (("malformed", 2),), ()),
                Door("feed", "PUB", -1, 0, round(20_000 + 2 * t), 0, 20, 0, (), ()),
                self._door("observe", ("tui@5120-1",), round(2 * t), round(2 * t)),
            ),
        )

    def _door(self, door: str, peers: Iterable[str], received: int, sent: int, kind: Any = "ROUTER") -> Door:
        shown = tuple(
            DoorPeer(
                name, 4_100 + index * 7, 990, 93_216_118, "ready", True, self.random.randrange(10**6, 5 * 10**8),
                received // (index + 1), sent // (index + 1), 0, 71_000 + 9_000 * index, 140_000 + 31_000 * index,
            )
            for index, name in enumerate(peers)
        )  # fmt: skip
        rtt = (71_000, 140_000) if shown and kind == "ROUTER" else (0, 0)
        return Door(door, kind, len(shown), received, sent, 0, 10_000, 0, (), shown, *rtt)

    # --- workers ---------------------------------------------------------------------------------------------------

    def _workers(self) -> Iterator[WorkerView]:
        for name, model, replica in (
            ("worker@smollm2.0.0", "smollm2", 0), ("worker@smollm2.1.0", "smollm2", 1),
            ("worker@qwen2.5-coder-0.5b.0.0", "qwen2.5-coder-0.5b", 0),
        ):  # fmt: skip
            small = model == "smollm2"
            yield WorkerView(
                name, model, replica, 0, 1, MODELS[0 if small else 1].source,
                "SmolLM2-135M-Instruct-Q4_K_M.gguf" if small else "qwen2.5-coder-0.5b-instruct-q8_0.gguf",
                "llama" if small else "qwen2", 134_515_008 if small else 494_032_768, "Q4_K" if small else "Q8_0",
                "the file's own bits", "cpu", 8 if small else 12, (105 if small else 531) * MIB, True,
                random.Random(model).randbytes(32), "bfloat16", PAGE[model] // 16, 16, 8_192 if small else 32_768,
                49_152 if small else 151_936, 24 if small else 8, 512, 0.31 if small else 0.9,
            )  # fmt: skip


class ToyWatch:
    """The toy's machine: 32 cores on two nodes."""

    def __init__(self, now_ns: Any) -> None:
        self.random, self.now_ns = random.Random(22), now_ns

    def read(self, processes: Iterable[tuple[str, int]], arena_bytes: int, now_ns: int) -> Machine:
        """See `metrics.host.watch.Watch`."""
        known = dict(processes)
        ranges = {
            "worker@smollm2.0.0": range(8), "worker@smollm2.1.0": range(16, 24),
            "worker@qwen2.5-coder-0.5b.0.0": range(24, 32),
        }  # fmt: skip
        everywhere = frozenset(range(32))
        places = {
            pid: Place(ranges[name][0] if name in ranges else 8 + pid % 8, frozenset(ranges.get(name, everywhere)))
            for name, pid in known.items()
        }
        busy_of = {cpu: 0.96 for name in ranges for cpu in ranges[name]}
        cores = tuple(
            Core(
                cpu, cpu // 16, min(1.0, busy_of.get(cpu, 0.07) * self.random.uniform(0.9, 1.04)), 0.0,
                2_850 + self.random.randrange(40) if cpu in busy_of else 1_500, 3_700,
                tuple(sorted(name for name, pid in known.items() if places[pid].cpu == cpu)),
                tuple(sorted(name for name in ranges if cpu in ranges[name] and name in known)),
            )
            for cpu in range(32)
        )  # fmt: skip
        memory = Memory(128 << 30, 109 << 30, 9 << 30, 2 << 30, 0, 0, 2 << 20, 0, 0, arena_bytes)
        pressure = (
            Pressure("cpu", 0.021, 0.014, 0.0, 0.0), Pressure("memory", 0.0, 0.0, 0.0, 0.0),
            Pressure("io", 0.002, 0.001, 0.001, 0.0),
        )  # fmt: skip
        nodes = (Node(0, "0-15", 64 << 30, 51 << 30), Node(1, "16-31", 64 << 30, 55 << 30))
        return Machine(
            "gpu-07", "Linux 6.12.48", "AMD EPYC 9354", 910_000.0 + now_ns / 1e9, cores, nodes, memory,
            (23.4, 22.8, 19.2), pressure, (), "nvidia-ml-py is not installed", places,
        )  # fmt: skip

    def private(self, pids: Iterable[int]) -> dict[int, int]:
        """See `metrics.host.watch.Watch`."""
        return {pid: (60 + pid % 50) * MIB for pid in pids}

    def memory_files(self, pid: int) -> int:
        """See `metrics.host.watch.Watch`."""
        return 1_120 * MIB if pid else 0
