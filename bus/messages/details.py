"""anyone <-> metrics: what a detail screen shows, asked for while it is looked at, so that the feed stays small.

Every reply is as of `at_ns` (CLOCK_MONOTONIC). What a process said is passed on with `heard_ns`, so that a screen can
tell how old it is. Rates are those of the last ten seconds.
"""

from __future__ import annotations

import msgspec

from bus.messages.vitals import (
    AccountsView,
    Door,
    Holder,
    HotPrefix,
    Knob,
    PoolView,
    QueueClass,
    ReplicaView,
    StepBound,
    StepLine,
)


class GetSteps(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=55):
    """How do the steps of a model go? `model` is empty for all models."""

    rid: int
    model: str = ""


class GetPages(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=56):
    """How is the arena filled, by whom, and what is on disk?"""

    rid: int


class GetHost(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=57):
    """How is this machine: cores, nodes, memory, GPUs, and the workers on them?"""

    rid: int


class GetBus(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=58):
    """Who talks to whom, and how does that go?"""

    rid: int


class GetModels(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=59):
    """What is served, and what memory does it take?"""

    rid: int


class BoundShare(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Of the last 1,000 steps: how many had this bound, and the share of the steps' time that they took."""

    bound: StepBound
    steps: int
    time_share: float


class StepPart(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a step's time goes into: plan, send, compute, gather, apply."""

    part: str
    p50_s: float
    p95_s: float


class ModelSteps(msgspec.Struct, array_like=True, frozen=True):
    """One model's steps.

    Attributes:
        total: steps of the scheduler's incarnation.
        window: how many the shares are of, at most 1,000; they ended within `window_s`.
        idle_share: of that time, nobody had anything to compute (all replicas together).
        step_p50_s, step_p95_s: of the window, on the worker.
        error_p50: median of what the cost model was off by, as a share of the step's time; -1 where it does not know.
        decode_rows, prefill_tokens, chunks: means a step.
        lines: the newest 120, oldest first.
    """

    model: str
    scheduler: str
    heard_ns: int
    total: int
    window: int
    window_s: float
    steps_per_s: float
    idle_share: float
    bounds: tuple[BoundShare, ...]
    step_p50_s: float
    step_p95_s: float
    parts: tuple[StepPart, ...]
    error_p50: float
    decode_rows: float
    prefill_tokens: float
    chunks: float
    queues: tuple[QueueClass, ...]
    knobs: tuple[Knob, ...]
    replicas: tuple[ReplicaView, ...]
    lines: tuple[StepLine, ...]


class StepsReply(msgspec.Struct, array_like=True, frozen=True, tag=55):
    """Models by name; none where no scheduler was heard."""

    rid: int
    at_ns: int
    models: tuple[ModelSteps, ...]


class Tier(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A place for pages: "memory", "disk". Rates in pages a second.

    Attributes:
        state: empty where it works; what is wrong otherwise.
    """

    tier: str
    used_bytes: int
    limit_bytes: int
    pages: int
    waiting_pages: int
    hits_per_s: float
    reads_per_s: float
    writes_per_s: float
    lost_per_s: float
    errors: int
    state: str = ""


class ModelPool(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A pool, and the model it is of; empty where nobody has it open."""

    model: str
    page_tokens: int
    pool: PoolView
    stock: int  # leased pages that wait in the scheduler for tokens


class ModelPrefix(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A hot prefix of a model; `hits_per_min` of late."""

    model: str
    hits_per_min: float
    prefix: HotPrefix


class PagesReply(msgspec.Struct, array_like=True, frozen=True, tag=56):
    """The arena. `heard_ns` is 0, and all is empty, where kv was not heard. The map is as in `PagesView`."""

    rid: int
    at_ns: int
    heard_ns: int
    arena_bytes: int
    slab_bytes: int
    slabs: int
    slabs_free: int
    settling: bool
    leases_per_s: float
    seals_per_s: float
    evictions_per_s: float
    lookups_per_s: float
    hit_ratio: float  # pages found of pages looked for; -1 where none was
    pools: tuple[ModelPool, ...]
    tiers: tuple[Tier, ...]
    holders: tuple[Holder, ...]
    prefixes: tuple[ModelPrefix, ...]
    map: bytes
    map_used: bytes
    map_cell_bytes: int


class Core(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A logical CPU. Shares of the last seconds, 0 to 1; clocks in MHz, 0 where unknown.

    Attributes:
        steal: somebody else on the physical machine had it.
        running: processes of headrace that were last seen on it; `pinned` those that may run on few cores, of which
            it is one.
    """

    cpu: int
    node: int
    busy: float
    steal: float
    mhz: int
    mhz_max: int
    running: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


class Node(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A NUMA node. `cpus` as the kernel writes lists: "0-3,8-11"."""

    node: int
    cpus: str
    total_bytes: int
    free_bytes: int


class Memory(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Of the host, in bytes; `huge_*` in pages of `huge_page_bytes`."""

    total: int
    available: int
    cached: int
    shared: int
    swap_total: int
    swap_used: int
    huge_page_bytes: int
    huge_total: int
    huge_free: int
    arena: int


class Pressure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """PSI of "cpu", "memory" or "io": share of the time that some or all tasks waited for it, 0 to 1."""

    what: str
    some_10s: float
    some_60s: float
    full_10s: float
    full_60s: float


class Gpu(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A GPU, from NVML; -1 where it does not say.

    Attributes:
        throttled: reasons why its clock is down, empty where it is not.
        running: processes of headrace on it.
    """

    gpu: int
    name: str
    pci: str
    busy: float
    memory_used: int
    memory_total: int
    power_w: float
    power_limit_w: float
    celsius: int
    mhz: int
    mhz_max: int
    pcie_rx_bytes_per_s: int
    pcie_tx_bytes_per_s: int
    ecc_errors: int
    throttled: tuple[str, ...] = ()
    running: tuple[str, ...] = ()


class WorkerPace(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a worker's steps go, of the last ten seconds.

    Attributes:
        step_s: mean; `skew_s` what it is above the median of the ranks of its replica.
        busy: share of the time in steps.
        cores: CPU time it takes, in cores.
        cpus: where it may run, as the kernel writes lists; `cpu` where it was last seen, -1 where nobody can look.
        node: of that core.
    """

    name: str
    model: str
    replica: int
    rank: int
    pid: int
    steps_per_s: float
    step_s: float
    step_p95_s: float
    skew_s: float
    busy: float
    tokens_per_s: float
    cores: float
    cpus: str
    cpu: int
    node: int


class HostReply(msgspec.Struct, array_like=True, frozen=True, tag=57):
    """The machine. `gpus` is empty where there is no NVML."""

    rid: int
    at_ns: int
    host: str
    kernel: str
    processor: str
    up_s: float
    cores: tuple[Core, ...]
    nodes: tuple[Node, ...]
    memory: Memory
    load: tuple[float, float, float]
    pressure: tuple[Pressure, ...]
    gpus: tuple[Gpu, ...]
    workers: tuple[WorkerPace, ...]
    gpu_trouble: str = ""  # why NVML says nothing


class Endpoint(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A listening socket. Rates in messages a second."""

    owner: str
    heard_ns: int
    in_per_s: float
    out_per_s: float
    refused_per_s: float
    door: Door


class BusReply(msgspec.Struct, array_like=True, frozen=True, tag=58):
    """Endpoints, by owner and door."""

    rid: int
    at_ns: int
    endpoints: tuple[Endpoint, ...]


class ModelSheet(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A model as it is served. Facts come from its workers; empty and 0 before one has loaded it.

    Attributes:
        source, quantize, dtype: as configured.
        replicas: that decode, or do both; `prefill_replicas` those that only prefill.
        weight_bytes: of all ranks of one replica.
        shared: whether all replicas have them once.
        load_s: the slowest of the workers.
        kv_limit_tokens: what the arena would hold, were it alone; 0 where unknown.
        kind, dimensions, device_memory: see `vitals.WorkerView`; of the first worker.
    """

    model: str
    source: str
    file: str
    architecture: str
    parameters: int
    quantisation: str
    engine: str
    device: str
    dtype: str
    weight_bytes: int
    shared: bool
    digest: bytes
    kv_dtype: str
    kv_token_bytes: int
    page_tokens: int
    context_tokens: int
    vocabulary: int
    replicas: int
    prefill_replicas: int
    ranks: int
    workers_ready: int
    workers: int
    threads: int
    slots: int
    step_tokens: int
    load_s: float
    kv_limit_tokens: int = 0
    kind: str = "generate"
    dimensions: int = 0
    device_memory: tuple[tuple[str, int], ...] = ()


class MemoryLine(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A line of the balance sheet: whose memory, and what for.

    Attributes:
        kind: "weights", "arena", "process", "other", "available". Lines add up to the host's memory.
    """

    kind: str
    what: str
    bytes: int
    note: str = ""


class ModelsReply(msgspec.Struct, array_like=True, frozen=True, tag=59):
    """Models as configured, and where the host's memory went."""

    rid: int
    at_ns: int
    memory_bytes: int
    models: tuple[ModelSheet, ...]
    sheet: tuple[MemoryLine, ...]


class GetAllowances(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=111):
    """How do limits and budgets stand?"""

    rid: int


class AllowancesReply(msgspec.Struct, array_like=True, frozen=True, tag=112):
    """As the accounts process said. `heard_ns` is 0, and there is no view, where it was not heard, as where nobody is
    asked for a key."""

    rid: int
    at_ns: int
    heard_ns: int
    view: AccountsView | None = None


Question = GetSteps | GetPages | GetHost | GetBus | GetModels | GetAllowances
Details = StepsReply | PagesReply | HostReply | BusReply | ModelsReply | AllowancesReply
