"""Names of processes and of their run-time files. No I/O but creating the run directory.

A process is called `role@instance`: `ingress@0`, `scheduler@smollm2`,
`worker@smollm2.1.0` (model, replica, rank), `kv@host`, `metrics@host`, `accounts@host`, `batch@host`,
`supervisor@host`.
`standby@smollm2.1.0` waits to become `worker@smollm2.1.0`, and has that name from then on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

Role = Literal[
    "ingress", "scheduler", "worker", "standby", "kv", "metrics", "accounts", "batch", "supervisor", "cli", "tui",
    "client",
]  # fmt: skip
ROLES: Final[tuple[str, ...]] = get_args(Role)
VISITORS: Final = frozenset({"cli", "tui", "client"})  # programs that come and go: they hold no name

# Model names end up in socket paths, unit names and URLs, so they are kept to what all three carry.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")

# sockaddr_un.sun_path is 108 bytes with its terminator; libzmq truncates silently beyond it.
_SUN_PATH_MAX: Final = 107


class InvalidName(ValueError):
    """A process name that is not `role@instance`."""


class PathTooLong(OSError):
    """The run directory's path is too long for the sockets in it."""


class ProcessName(NamedTuple):
    """`role@instance`, parsed."""

    role: str
    instance: str

    def __str__(self) -> str:
        return f"{self.role}@{self.instance}"


class WorkerInstance(NamedTuple):
    """The instance part of a worker's name: rank `rank` of replica `replica` of `model`."""

    model: str
    replica: int
    rank: int

    def __str__(self) -> str:
        return f"{self.model}.{self.replica}.{self.rank}"


def parse_process(name: str) -> ProcessName:
    """Parse `role@instance`.

    Raises:
        InvalidName: the role is unknown or the instance is missing or not printable.
    """
    role, at, instance = name.partition("@")
    if role not in ROLES or not at or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", instance):
        raise InvalidName(f"{name!r} is not a process name; expected ROLE@INSTANCE with ROLE one of {', '.join(ROLES)}")
    return ProcessName(role, instance)


def parse_worker(instance: str) -> WorkerInstance:
    """Parse `model.replica.rank`; the model's own name may contain dots.

    Raises:
        InvalidName: replica or rank is missing or not a number.
    """
    parts = instance.rsplit(".", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise InvalidName(f"{instance!r} is not a worker instance; expected MODEL.REPLICA.RANK")
    return WorkerInstance(parts[0], int(parts[1]), int(parts[2]))


def run_directory() -> Path:
    """Where sockets and locks live: `$HEADRACE_RUN`, else `/run/headrace`, else `$XDG_RUNTIME_DIR/headrace`.

    The directory is created with mode 0700 when it is missing.
    """
    if given := os.environ.get("HEADRACE_RUN"):
        path = Path(given)
    elif os.access("/run/headrace", os.W_OK) or os.geteuid() == 0:
        path = Path("/run/headrace")
    else:
        path = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/headrace-{os.geteuid()}") / "headrace"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def state_directory() -> Path:
    """What survives a reboot: `$HEADRACE_STATE`, else `/var/lib/headrace` for root, else the user's state directory."""
    if given := os.environ.get("HEADRACE_STATE"):
        path = Path(given)
    elif os.geteuid() == 0:
        path = Path("/var/lib/headrace")
    else:
        path = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "headrace"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def models_directory() -> Path:
    """The model store: `$HEADRACE_MODELS`, else `models` in the state directory."""
    path = Path(given) if (given := os.environ.get("HEADRACE_MODELS")) else state_directory() / "models"
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def pages_directory(given: str = "") -> Path:
    """Where kv keeps pages on disk: what `[kv] disk_path` says, else `pages` in the state directory. Not created."""
    return Path(given).expanduser() if given else state_directory() / "pages"


def socket_path(owner: str, door: str, run: Path | None = None) -> Path:
    """The path of one of a process's sockets, for example `scheduler@smollm2.steps.sock`.

    Args:
        owner: process name that binds it.
        door: what it is for; one of the `*_DOOR` constants below.

    Raises:
        PathTooLong: the path is longer than a Unix socket address can hold.
    """
    path = (run or run_directory()) / f"{owner}.{door}.sock"
    if (excess := len(os.fsencode(path)) - _SUN_PATH_MAX) > 0:
        raise PathTooLong(
            f"socket path {path} is {excess} bytes longer than the {_SUN_PATH_MAX} that a Unix socket's can have; "
            "set HEADRACE_RUN to a shorter directory"
        )
    return path


def ipc(path: Path) -> str:
    """The ZeroMQ address of a socket path."""
    return f"ipc://{path}"


CONTROL_DOOR: Final = "control"  # every process: status, drain, stop
REQUESTS_DOOR: Final = "requests"  # scheduler: for ingresses
STEPS_DOOR: Final = "steps"  # scheduler: for workers
PAGES_DOOR: Final = "pages"  # kv: SEQPACKET, passes the arena's descriptor
CLIENTS_DOOR: Final = "clients"  # ingress: for ZeroMQ clients
TELEMETRY_DOOR: Final = "telemetry"  # metrics: samples come in
OBSERVE_DOOR: Final = "observe"  # metrics: questions and answers
FEED_DOOR: Final = "feed"  # metrics: sequenced updates go out
LEASES_DOOR: Final = "leases"  # accounts: for ingresses
BATCHES_DOOR: Final = "batches"  # batch: for ingresses

LONGEST_DOOR: Final = max(
    (
        CONTROL_DOOR,
        REQUESTS_DOOR,
        STEPS_DOOR,
        PAGES_DOOR,
        CLIENTS_DOOR,
        TELEMETRY_DOOR,
        OBSERVE_DOOR,
        FEED_DOOR,
        LEASES_DOOR,
        BATCHES_DOOR,
    ),
    key=len,
)

KV: Final = "kv@host"
METRICS: Final = "metrics@host"
ACCOUNTS: Final = "accounts@host"
BATCH: Final = "batch@host"
SUPERVISOR: Final = "supervisor@host"


def scheduler_name(model: str) -> str:
    """Name of the scheduler process of a model."""
    return f"scheduler@{model}"


def worker_name(model: str, replica: int, rank: int) -> str:
    """Name of the worker process that is rank `rank` of replica `replica`."""
    return f"worker@{WorkerInstance(model, replica, rank)}"


def standby_name(worker: str) -> str:
    """Name of the process that waits to become `worker`."""
    return f"standby@{parse_process(worker).instance}"


def worker_of(standby: str) -> str:
    """The opposite of `standby_name`."""
    return f"worker@{parse_process(standby).instance}"


def ingress_name(index: int) -> str:
    """Name of the `index`-th ingress process."""
    return f"ingress@{index}"
