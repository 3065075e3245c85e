"""everyone -> metrics, PUB/SUB: what the detail screens show, from those who know it. Droppable like all telemetry.

`Steps` comes twice a second while there are steps; the others are said again every two seconds, so that a metrics
process that starts late soon knows them. Everything is bounded at its source; totals say what was left out.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bus.messages.common import ProcessState

StepBound = Literal[
    "demand",  # all that was wanted is in the step, and nobody waits: more requests would fill it
    "slots",  # somebody waits because every slot is taken
    "kv_pages",  # rows sat out, or somebody waits, for want of pages
    "token_budget",  # prompts were cut, or somebody waits, because a step has so many tokens and no more
    "inter_token_target",  # prompts were cut so that those who decode keep their pace
    "prefix",  # all who wait do so for KV: from kv, from disk, or from a request that computes it
    "pipeline",  # the plan was ready in time, and still the worker waited: bus, scheduler or the other ranks are slow
    "trial",  # requests under suspicion run apart from the others
    "memory",  # steps are made small after the worker ran out of memory
]


class StepLine(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One step of one replica, when its result had come. Times in ns.

    Attributes:
        at_ns: CLOCK_MONOTONIC when the result came.
        ran_ns: on the worker, until tokens were on the host; `predicted_ns` is what the cost model expected, 0 while it
            does not know.
        waited_ns: the worker was idle before the plan came.
        plan_ns: the scheduler planned it; `apply_ns` it took the result in.
        gather_ns: neither side computed: messages under way, and the worker's own work around the step.
        rows: sequences in the step; `decodes` of them drew one more token.
        chunks: prompts in it (request, tokens), the first eight; `chunk_count` says how many there are.
        waiting: requests in the queue when it was planned; `starved` pages that its rows wanted and did not get.
        bound: why there was not more in it.
        drafted: draft tokens in its rows; `accepted` of them were right.
    """

    replica: int
    step: int
    at_ns: int
    ran_ns: int
    predicted_ns: int
    waited_ns: int
    plan_ns: int
    apply_ns: int
    gather_ns: int
    rows: int
    decodes: int
    prefill_tokens: int
    chunk_count: int
    chunks: tuple[tuple[int, int], ...]
    waiting: int
    starved: int
    bound: StepBound
    drafted: int = 0
    accepted: int = 0


class Steps(msgspec.Struct, array_like=True, frozen=True, tag=55):
    """A scheduler's steps since its last message: the newest 256.

    Attributes:
        total: steps of this incarnation, those that were left out included.
    """

    name: str
    model: str
    total: int
    lines: tuple[StepLine, ...]


class QueueClass(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Requests of one priority; lower runs earlier. `held` are those of the waiting that wait for KV of their own."""

    priority: int
    waiting: int
    held: int
    running: int
    oldest_ns: int  # of those that wait


class Knob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A limit that shapes steps. `key` is its name in the configuration, `value` what holds now.

    Attributes:
        default: what the configuration says, where something lowered it since.
    """

    key: str
    value: float
    unit: str
    default: float


class ReplicaView(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A replica as its scheduler sees it. Rates of the cost model: `base_ns` a step, and so much more a token."""

    replica: int
    ready: bool
    draining: bool
    barred: bool
    running: int
    slots: int
    in_flight: int
    step_tokens: int  # as limited now
    backlog_tokens: int  # prompts that wait in slots
    base_ns: float
    token_ns: float


class HotPrefix(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A prefix that requests were found to begin with.

    Attributes:
        digest: of its last block, which names all of it.
        refs: requests that hold it now.
        hits: how often it saved computing it, of late: halves every five minutes.
        since_ns, last_ns: CLOCK_MONOTONIC of the first and the latest of them.
    """

    digest: bytes
    tokens: int
    refs: int
    hits: float
    since_ns: int
    last_ns: int


class SchedulerView(msgspec.Struct, array_like=True, frozen=True, tag=56):
    """A scheduler's queues, limits, replicas and the sixteen hottest prefixes."""

    name: str
    model: str
    page_tokens: int
    queues: tuple[QueueClass, ...]
    knobs: tuple[Knob, ...]
    replicas: tuple[ReplicaView, ...]
    prefixes: tuple[HotPrefix, ...]


class PoolView(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The pages of one KV shape of one model. `total` is the sum of the states; `capacity` what it would have, alone.

    Attributes:
        openers: processes that have opened it.
    """

    pool: int
    openers: tuple[str, ...]
    page_bytes: int
    slabs: int
    capacity: int
    total: int
    free: int
    leased: int
    pinned: int
    cached: int
    quarantined: int
    filling: int


class Holder(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Who holds pages: an attached client, or an incarnation that is gone.

    Attributes:
        epoch: of the incarnation.
        leased: pages that it may have written; `pinned` those that it reads.
        stale: the incarnation is over; its leased pages come back when all of `writers` are dead or fenced.
        writers: processes that may still write them.
    """

    name: str
    role: str
    epoch: int
    pid: int
    leased: int
    pinned: int
    stale: bool
    writers: tuple[str, ...] = ()


# Codes of a cell of the arena's map: what most of it is. Ascending by how much it is in use.
MAP_STATES: Final = ("none", "free", "cached", "pinned", "leased", "quarantined", "lost")


class PagesView(msgspec.Struct, array_like=True, frozen=True, tag=57):
    """The page server's arena. Counters are telemetry series.

    Attributes:
        map: a byte a cell, an index of `MAP_STATES`; at most 2,048 cells.
        map_used: a byte a cell, the share of its pages that is not free, 255 is all.
        map_cell_bytes: bytes of the arena that a cell stands for; the last one may stand for less.
        settling: clients of the incarnation before have not all said what they hold.
    """

    name: str
    arena_bytes: int
    slab_bytes: int
    slabs: int
    slabs_free: int
    pools: tuple[PoolView, ...]
    holders: tuple[Holder, ...]
    map: bytes
    map_used: bytes
    map_cell_bytes: int
    settling: bool
    disk_path: str = ""
    disk_bytes: int = 0
    disk_limit_bytes: int = 0
    disk_pages: int = 0
    disk_waiting_pages: int = 0
    disk_state: str = ""  # empty where it works, or where there is none


DoorKind = Literal["ROUTER", "SEQPACKET", "PUB", "SUB"]


class DoorPeer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A process at the other end of a door.

    Attributes:
        uid: by the kernel; -1 where the peer is on another host.
        silent_ns: since it last said anything.
        last_seq: number of its last message; `sent_seq` of our last to it.
        queue: messages to it that its socket has no room for.
        rtt_p50_ns, rtt_p99_ns: of the last minute's heartbeats, there and back, less the time they were held for; 0
            where unknown. The event loops of both sides are in it.
    """

    name: str
    pid: int
    uid: int
    epoch: int
    state: ProcessState
    busy: bool
    silent_ns: int
    last_seq: int
    sent_seq: int
    queue: int
    rtt_p50_ns: int = 0
    rtt_p99_ns: int = 0


class Door(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One listening socket of a process. Counts since the process started.

    Attributes:
        peers: at most 64; `peers_total` says how many there are, -1 where nobody can know.
        sent: by PUB once, however many listen.
        refused: messages that were not taken, by reason (see `NackReason`, and "repeated").
        dropped: peers that were given up because they do not read.
        queue_limit: messages to one peer beyond which it is given up.
    """

    door: str
    kind: DoorKind
    peers_total: int
    received: int
    sent: int
    queue: int
    queue_limit: int
    dropped: int
    refused: tuple[tuple[str, int], ...]
    peers: tuple[DoorPeer, ...]
    rtt_p50_ns: int = 0
    rtt_p99_ns: int = 0


class Doors(msgspec.Struct, array_like=True, frozen=True, tag=58):
    """All doors of a process."""

    name: str
    doors: tuple[Door, ...]


class WorkerView(msgspec.Struct, array_like=True, frozen=True, tag=59):
    """What a worker is and has loaded. It does not change while the worker lives.

    Attributes:
        source, file: of the weights: as configured, and on this machine.
        parameters: of the whole model.
        weight_bytes: of this rank's share, as it is computed with.
        shared: whether they are mapped from a file, so that processes of this host have them once.
        engine: what computes, in words.
        kv_token_bytes: a token's KV, of all ranks.
        pool: "prefill", "decode", or empty where there are no such pools.
        kind: what the model is for, see `steps.Registered`.
        dimensions: of an encoder's answer.
        device_memory: of a GPU, (what it is for, bytes), in order; empty where KV is the arena's.
    """

    name: str
    model: str
    replica: int
    rank: int
    ranks: int
    source: str
    file: str
    architecture: str
    parameters: int
    quantisation: str
    engine: str
    device: str
    threads: int
    weight_bytes: int
    shared: bool
    digest: bytes
    kv_dtype: str
    kv_token_bytes: int
    page_tokens: int
    context_tokens: int
    vocabulary: int
    slots: int
    step_tokens: int
    load_s: float
    pool: str = ""
    kind: str = "generate"
    dimensions: int = 0
    device_memory: tuple[tuple[str, int], ...] = ()


class Standing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a limit or a budget stands. Amounts as in `accounts.Allowance`.

    Attributes:
        kind, scope, dimension, model, amount, window_s, period: the allowance's.
        label: the name of a key; empty of projects and organisations.
        used: of the window, or the period, up to now; of concurrency nothing is.
        leased: that ingresses hold: reserved, or ahead.
        left: that could be given now; below 0 where more was used than allowed.
    """

    kind: str
    scope: str
    label: str
    dimension: str
    model: str
    amount: int
    window_s: int
    period: str
    used: int
    leased: int
    left: int


class AccountsView(msgspec.Struct, array_like=True, frozen=True, tag=110):
    """Limits and budgets: of those that were in use lately, the ones with the least left.

    Attributes:
        keys, projects, allowances: how many there are; keys that are good.
        currency: of money.
        standings: the one with the smallest part left first.
    """

    name: str
    keys: int
    projects: int
    allowances: int
    currency: str
    standings: tuple[Standing, ...]
