"""What can happen to the scheduler, and what it can ask for. Data only.

Pages travel packed (u32), as on the wire. `lease`, `seal` and `lookup` numbers tie an answer to its question.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bus.messages.adapters import AdapterSource
from bus.messages.requests import Abort, Accepted, Deltas, Encoded, PromptLogprobs, Refused, Spent, Submit
from bus.messages.steps import StepFailed, StepPlan, StepResult
from bus.messages.telemetry import TimelineEvent


class Home(NamedTuple):
    """One incarnation of an ingress: where a request's tokens go."""

    name: str
    epoch: int


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of everything that can happen."""


class Submitted(Event, frozen=True, gc=False):
    """An ingress submits, perhaps again."""

    home: Home
    submit: Submit


class Aborted(Event, frozen=True, gc=False):
    """An ingress does not want a request any more."""

    abort: Abort


class Cancelled(Event, frozen=True, gc=False):
    """An operator ends a request; its client gets what was generated so far."""

    request: int


class IngressJoined(Event, frozen=True, gc=False):
    """An ingress is there (again)."""

    home: Home


class IngressLost(Event, frozen=True, gc=False):
    """An ingress is gone; its requests go on for a while."""

    home: Home


class ReplicaUp(Event, frozen=True, gc=False):
    """All ranks of a replica are ready, with all slots closed.

    `context_tokens` and `page_tokens` are the model's, equal for all replicas. `cores`: that all ranks compute with.
    `dimensions`: of an encoder's answers; 0 of a model that generates. `drafts`: most draft tokens of a row that its
    workers can propose. `device_pages`: that its slots can hold at once, where it computes KV in device memory; 0 where
    it is the arena. `window`, `fold`: see `windows`; no window where pages behind it are not to be let go of.
    """

    replica: int
    slots: int
    step_tokens: int
    context_tokens: int
    page_tokens: int
    cores: int = 1
    dimensions: int = 0
    drafts: int = 0
    device_pages: int = 0
    window: int = 0
    fold: int = 0


class ReplicaLost(Event, frozen=True, gc=False):
    """A rank of the replica is gone: nothing in flight will be answered."""

    replica: int
    why: str


class ReplicaFrozen(Event, frozen=True, gc=False):
    """Processes of a replica stand still, or (`why` is empty) do not any more."""

    replica: int
    why: str


class ReplicaFenced(Event, frozen=True, gc=False):
    """No rank of a lost replica can write any more: all are dead or have started over."""

    replica: int


class ReplicaDrain(Event, frozen=True, gc=False):
    """Place nothing new on the replica, or do so again."""

    replica: int
    draining: bool


class ReplicaComputed(Event, frozen=True, gc=False):
    """How much CPU the processes of a replica have used, since they started. Told while a step takes long."""

    replica: int
    cpu_ns: int


class ReplicaLeaving(Event, frozen=True, gc=False):
    """Its processes are about to end: its requests are taken back when what is under way is done. Until it is lost."""

    replica: int


class StepDone(Event, frozen=True, gc=False):
    """Rank 0's result."""

    replica: int
    result: StepResult


class StepBroken(Event, frozen=True, gc=False):
    """A rank says that the step raised."""

    replica: int
    failed: StepFailed


class KvUp(Event, frozen=True, gc=False):
    """The page server answers, for the first time or again.

    Attributes:
        capacity: pages that the pool could have were it alone.
    """

    capacity: int


class KvDown(Event, frozen=True, gc=False):
    """The page server is gone; questions in flight will not be answered."""


class Leased(Event, frozen=True, gc=False):
    """Answer to `LeasePages`."""

    lease: int
    pages: bytes
    generations: bytes


class Sealed(Event, frozen=True, gc=False):
    """Answer to `SealPages`; codes as in `bus.messages.pages.Sealed`."""

    seal: int
    codes: bytes
    pages: bytes
    generations: bytes


class Found(Event, frozen=True, gc=False):
    """Answer to `LookUp`, however late.

    Attributes:
        ahead: blocks behind those that were found which kv could bring from disk, in about `ahead_us`.
    """

    lookup: int
    pages: bytes
    generations: bytes
    ahead: int = 0
    ahead_us: int = 0


class LookupExpired(Event, frozen=True, gc=False):
    """The look-up's deadline has passed."""

    lookup: int


class Reasserted(Event, frozen=True, gc=False):
    """Answer to `ReassertPages`: handles that are not valid any more."""

    lost: bytes


class AdapterAdded(Event, frozen=True, gc=False):
    """An adapter may be named. Not `listed`, it is there for those only who had it under way, at most for so long."""

    name: str
    source: str
    digest: bytes = b""
    listed: bool = True
    linger_ns: int = 0
    created: int = 0


class AdapterDropped(Event, frozen=True, gc=False):
    """... and may be named no more."""

    name: str


class AdapterRead(Event, frozen=True, gc=False):
    """All ranks of a replica have answered for an adapter; fields as in `bus.messages.adapters.AdapterState`."""

    replica: int
    number: int
    digest: bytes = b""
    took_ns: int = 0
    problem: str = ""


class Limited(Event, frozen=True, gc=False):
    """The operator changes limits. What runs goes on; what comes next has to fit. Units as in `state.Limits`."""

    slots: int
    step_tokens: int
    inter_token_target_ns: float
    queue_requests: int
    queue_tokens: int


class Tick(Event, frozen=True, gc=False):
    """Time has passed."""


class Action(msgspec.Struct, frozen=True, gc=False):
    """Base of everything that can be asked for."""


class Reply(Action, frozen=True, gc=False):
    """Send to an ingress."""

    home: Home
    body: Accepted | Refused | Deltas | Encoded | PromptLogprobs | Spent


class SendPlan(Action, frozen=True, gc=False):
    """Send to every rank of a replica."""

    replica: int
    plan: StepPlan


class ResetReplica(Action, frozen=True, gc=False):
    """Every rank of the replica closes all slots; the next plan has this number."""

    replica: int
    next_step: int


class KillReplica(Action, frozen=True, gc=False):
    """The replica hangs, or is not to be trusted: end its processes. `ReplicaFenced` is to follow."""

    replica: int
    why: str


class ReplicaFailed(Action, frozen=True, gc=False):
    """The replica is taken out for so long: it fails whatever it is given. For the operator; nothing is to be done."""

    replica: int
    why: str
    for_ns: int


class LeasePages(Action, frozen=True, gc=False):
    """Ask kv for writable pages."""

    lease: int
    count: int


class SealPages(Action, frozen=True, gc=False):
    """Tell kv that pages are full and final."""

    seal: int
    pages: bytes
    generations: bytes
    digests: bytes
    parents: bytes


class LookUp(Action, frozen=True, gc=False):
    """Ask kv for the longest known prefix of a chain; `LookupExpired` is due after `due_ms`. `wait_ms`: kv is to bring
    from disk what it has there, and so long may that take."""

    lookup: int
    digests: bytes
    due_ms: float
    wait_ms: int = 0


class ReleasePages(Action, frozen=True, gc=False):
    """Give pages back to kv: pins on sealed pages, leases on others."""

    pages: bytes
    generations: bytes


class ReassertPages(Action, frozen=True, gc=False):
    """Tell a kv that starts over what is ours."""

    pins: bytes
    pin_generations: bytes
    leases: bytes
    lease_generations: bytes


class KeepAdaptersOf(Action, frozen=True, gc=False):
    """Every rank of the replica shall have these adapters and no others. `AdapterRead` follows for each."""

    replica: int
    adapters: tuple[AdapterSource, ...]


class AdapterTold(Action, frozen=True, gc=False):
    """An adapter was read for the first time, or (`problem`) cannot be."""

    name: str
    problem: str


class Note(Action, frozen=True, gc=False):
    """For the request's timeline."""

    event: TimelineEvent
