"""operator <-> every process: status, drain, stop; and, at the supervisor, the same for processes by name.

Each question carries `rid`; its answer repeats it. Commands are idempotent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

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


class Undrain(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=12):
    """Take work again."""

    rid: int
    name: str = ""


class Stop(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=13):
    """Drain for at most `deadline_s`, then end with exit code 0. At the supervisor: everything."""

    rid: int
    deadline_s: float = 30.0


class Restart(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=14):
    """Supervisor only: drain `name`, end it, start it again. With its own name, it goes on as another program:
    `executable` is that of a Python that has headrace, empty for the one it has."""

    rid: int
    name: str
    deadline_s: float = 120.0
    executable: str = ""


class SetLogLevel(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=15):
    """Log from this level up, until the process ends."""

    rid: int
    level: Literal["debug", "info", "warning", "error"]


class GetFleet(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=16):
    """Supervisor only: all processes that should be there."""

    rid: int


class CancelRequest(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=17):
    """Scheduler only: abort one request, as its client could; the client gets what was generated so far."""

    rid: int
    request: int


class Audit(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=18):
    """kv only: count everything that is known of pages from every side, and compare. Answered by `Audited`."""

    rid: int


class ModelStatus(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A served model, as its scheduler sees it. For `trouble` and `stuck` see `requests.ModelFacts`."""

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
    """Done, or under way: `detail` says."""

    rid: int
    detail: str = ""


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


ToProcess = (
    Hello
    | Heartbeat
    | Nack
    | Bye
    | GetStatus
    | Drain
    | Undrain
    | Stop
    | Restart
    | SetLogLevel
    | GetFleet
    | CancelRequest
    | Audit
)
FromProcess = Welcome | Heartbeat | Nack | Bye | Status | Fleet | Ok | Rejected | Audited
