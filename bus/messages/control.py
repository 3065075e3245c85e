"""operator <-> every process: status, drain, stop; and, at the supervisor, the same for processes by name.

Each question carries `rid`; its answer repeats it. Commands are idempotent. Who may look and who may act, the process
decides by the kernel's credentials (`bus.credentials`). `reason` is the operator's own, for the audit log.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.messages.accounts import Allowance, Key, Project, Sharing
from bus.messages.adapters import Adapters, AddAdapter, GetAdapters, RemoveAdapter
from bus.messages.caching import CacheReport, CacheStatus, CalibrateCache, FlushCache, GetCache, GetCacheReport
from bus.messages.common import Bye, Heartbeat, Hello, Nack, ProcessState, Welcome


class GetStatus(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=10):
    """How are you?"""

    rid: int


class Drain(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=11):
    """Finish what you have, take nothing new. `name` is empty for the process itself; at the supervisor and at a
    scheduler (for its replicas' workers) it names another."""

    rid: int
    name: str = ""
    deadline_s: float = 120.0
    reason: str = ""


class Undrain(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """Take work again."""

    rid: int
    name: str = ""
    reason: str = ""


class Stop(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """Drain for at most `deadline_s`, then end with exit code 0. At the supervisor: everything."""

    rid: int
    deadline_s: float = 30.0
    reason: str = ""


class Restart(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=14):
    """Supervisor only: drain `name`, end it, start it again. With its own name, it goes on as another program:
    `executable` is that of a Python that has headrace, empty for the one it has."""

    rid: int
    name: str
    deadline_s: float = 120.0
    executable: str = ""
    reason: str = ""


class SetLogLevel(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=15):
    """Log from this level up, until the process ends."""

    rid: int
    level: Literal["debug", "info", "warning", "error"]
    reason: str = ""


class GetFleet(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=16):
    """Supervisor only: all processes that should be there."""

    rid: int


class CancelRequest(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=17):
    """Scheduler only: abort one request, as its client could; the client gets what was generated so far."""

    rid: int
    request: int
    reason: str = ""


class Audit(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=18):
    """kv only: count everything that is known of pages from every side, and compare. Answered by `Audited`."""

    rid: int


class GetAccess(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=70):
    """What may I do here?"""

    rid: int


class LimitValues(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Limits of a model, named as in `[[model]]`; None where one is not meant. `slots` and `step_tokens` hold for each
    replica."""

    slots: int | None = None
    step_tokens: int | None = None
    inter_token_target_ms: float | None = None
    queue_requests: int | None = None
    queue_tokens: int | None = None


class SetLimits(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=71):
    """Scheduler only: from the next step on, these. With `reset`, what is configured first."""

    rid: int
    limits: LimitValues
    reset: bool = False
    reason: str = ""


class GetLimits(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=72):
    """Scheduler only: which limits hold."""

    rid: int


class Reload(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=73):
    """Read again what can be read while running: an ingress, the public keys of those who may connect."""

    rid: int
    reason: str = ""


class Acknowledge(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=74):
    """Metrics only: somebody looks after this finding. Until it is over. `user` is filled in at the door."""

    rid: int
    code: str
    subject: str
    comment: str = ""
    user: str = ""


class Silence(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=75):
    """Metrics only: do not raise this finding for so long; 0 ends a silence. `user` is filled in at the door."""

    rid: int
    code: str
    subject: str
    seconds: float
    comment: str = ""
    user: str = ""


class Witness(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=80):
    """An order that somebody else carries out, systemd, was given or refused: write it down, as what I did.

    Attributes:
        verb, object: as in the audit log.
        refused: why it was not obeyed; empty where it was.
        detail: what came of it.
    """

    rid: int
    verb: Literal["restart", "kill"]
    object: str
    refused: str = ""
    detail: str = ""
    reason: str = ""


class GetActions(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=81):
    """What does the audit log of this host say? Those who may look may ask. Answered by `Actions`.

    Attributes:
        since, before: seconds since 1970; the newest records between them are told. `before` is 0 for now.
    """

    rid: int
    since: float = 0.0
    before: float = 0.0


class GetNotes(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=76):
    """Metrics only: what operators said of findings."""

    rid: int


class AddProject(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=100):
    """Accounts only: there is a project, `ORGANISATION/PROJECT`, or it shares cached prompts, and the model,
    as it says now."""

    rid: int
    name: str
    shares: Sharing = "project"
    weight: float = 1.0
    reason: str = ""


class AddKey(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=101):
    """Accounts only: there is a key. Whoever asks has drawn its secret, and tells its digest only."""

    rid: int
    key: Key
    reason: str = ""


class ReplaceSecret(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=102):
    """Accounts only: the key has another secret; the one before is good for `overlap_s` longer."""

    rid: int
    key: str
    digest: bytes
    overlap_s: int = 0
    reason: str = ""


class RevokeKey(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=103):
    """Accounts only: the key is not good any more."""

    rid: int
    key: str
    reason: str = ""


class SetAllowance(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=104):
    """Accounts only: a limit or budget is `amount` from now on, and is no more where that is negative. Its number is
    given by the accounts process; the one with the same scope, dimension, model and, of limits, window is replaced."""

    rid: int
    allowance: Allowance
    reason: str = ""


class GetAccounts(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=105):
    """Accounts only: what there is of an organisation, a project or a key; empty is of all.

    Attributes:
        most: keys, the newest.
    """

    rid: int
    scope: str = ""
    most: int = 1000


class AllowanceNow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An allowance as it is used.

    Attributes:
        spent: of money, in this period.
        held: by ingresses, ahead of what they give out or in use.
        left: what nobody holds.
        next_s: Unix time when the next period begins; 0 where that has no meaning.
    """

    allowance: Allowance
    spent: int
    held: int
    left: int
    next_s: int = 0


class AccountsHeld(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=106):
    """Answer to `GetAccounts`. `more` is how many keys were left out."""

    rid: int
    projects: tuple[Project, ...]
    keys: tuple[Key, ...]
    allowances: tuple[AllowanceNow, ...]
    more: int = 0
    currency: str = ""


class ModelStatus(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A served model, as its scheduler sees it. For `trouble` and `stuck` see `requests.ModelFacts`, for `kind`
    `steps.Registered`; it is empty as long as no worker has said it."""

    name: str
    state: ProcessState
    replicas: int
    replicas_ready: int
    waiting: int
    running: int
    output_tokens_per_s: float
    trouble: str = ""
    stuck: str = ""
    stuck_s: float = 0.0
    kind: str = ""


class Status(msgspec.Struct, array_like=True, frozen=True, tag=20):
    """A process about itself.

    Attributes:
        load: what fills it, from 0 to 1 (slots in use, pages in use); -1 where that has no meaning.
        detail: one line for a person.
        models: schedulers only.
        counters: what it counted since it started, (name, value).
        build: the release that it runs.
        troubles: what keeps it from talking to others, a line each.
        drained: it drains, and nothing is in hand any more.
    """

    rid: int
    name: str
    role: str
    pid: int
    state: ProcessState
    epoch: int
    uptime_s: float
    progress: int
    load: float = -1.0
    detail: str = ""
    models: tuple[ModelStatus, ...] = ()
    counters: tuple[tuple[str, float], ...] = ()
    build: str = ""
    troubles: tuple[str, ...] = ()
    drained: bool = False


class UnitStatus(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A process as the supervisor sees it. `pid` is 0 where it does not run."""

    name: str
    pid: int
    state: ProcessState
    restarts: int
    uptime_s: float
    last_exit: str = ""


class Fleet(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=21):
    """Answer to `GetFleet`."""

    rid: int
    units: tuple[UnitStatus, ...]
    config: str


class Ok(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=22):
    """Done, or under way: `detail` says.

    Attributes:
        before, after: what it was and what it is now, for the audit log; empty where that says nothing.
    """

    rid: int
    detail: str = ""
    before: str = ""
    after: str = ""


class Rejected(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=23):
    """Not done, and why."""

    rid: int
    reason: str


class Audited(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=24):
    """Answer to `Audit`.

    Attributes:
        pages: how many there are.
        faults: what does not fit, one sentence each; the first hundred. Empty at any moment where all is well.
    """

    rid: int
    pages: int
    faults: tuple[str, ...] = ()


class Access(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=77):
    """Answer to `GetAccess`: the asker's user as this process knows it, and who may act here."""

    rid: int
    role: Literal["admin", "viewer"]
    user: str
    who_may_act: str = ""


class LimitsInForce(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=78):
    """Answer to `GetLimits`.

    Attributes:
        most: what cannot be exceeded without a restart: what the workers have room for.
    """

    rid: int
    now: LimitValues
    configured: LimitValues
    most: LimitValues


class FindingNote(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an operator said of a finding.

    Attributes:
        at_s, until_s: seconds since 1970; `until_s` is 0 for what holds until the finding is over.
    """

    code: str
    subject: str
    kind: Literal["acknowledged", "silenced"]
    user: str
    comment: str
    at_s: float
    until_s: float = 0.0


class Notes(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=79):
    """Answer to `GetNotes`."""

    rid: int
    notes: tuple[FindingNote, ...]


class Actions(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=82):
    """Answer to `GetActions`, oldest first.

    Attributes:
        records: lines of the audit log, JSON objects (`bus.actionlog.ActionRecord`).
        more: there are older ones since then: ask again, before the first of these.
        problem: why the files, or one of them, could not be read.
    """

    rid: int
    records: tuple[bytes, ...]
    more: bool = False
    problem: str = ""


class TryGuards(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=110):
    """An ingress only: what would the guards say of this text? No model is asked. Answered by `GuardsTried`."""

    rid: int
    text: str
    stage: Literal["input", "output"] = "input"


class GuardVerdict(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one guard said.

    Attributes:
        outcome: passed, flagged, masked, blocked, shadowed, failed, late; empty where it was not asked.
        what: kinds of findings, or a score.
        us: microseconds that it took.
    """

    name: str
    kind: str
    action: str
    outcome: str
    what: str
    us: float


class GuardsTried(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=111):
    """Answer to `TryGuards`. `text` is what would go on; empty where it is blocked."""

    rid: int
    verdicts: tuple[GuardVerdict, ...]
    text: str


# What is asked at a process's door, and what it can answer.
Question = (
    GetStatus
    | GetAccess
    | GetActions
    | GetFleet
    | GetLimits
    | GetNotes
    | Drain
    | Undrain
    | Stop
    | Restart
    | Audit
    | CancelRequest
    | SetLimits
    | SetLogLevel
    | Reload
    | Acknowledge
    | Silence
    | Witness
    | GetCache
    | GetCacheReport
    | FlushCache
    | CalibrateCache
    | TryGuards
    | AddProject
    | AddKey
    | ReplaceSecret
    | RevokeKey
    | SetAllowance
    | GetAccounts
    | AddAdapter
    | RemoveAdapter
    | GetAdapters
)
# What a service says to a command of its own.
Answer = (
    Fleet
    | Ok
    | Rejected
    | Audited
    | LimitsInForce
    | Notes
    | CacheStatus
    | CacheReport
    | GuardsTried
    | AccountsHeld
    | Adapters
)
Reply = Answer | Status | Access | Actions

ToProcess = Hello | Heartbeat | Nack | Bye | Question
FromProcess = Welcome | Heartbeat | Nack | Bye | Reply
