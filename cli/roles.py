"""Role to the `main` of its folder. The one place where this command touches the code of another process."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from bus.config import Config
from bus.names import InvalidName, parse_process, parse_worker

_MAINS: Final = {
    "ingress": "ingress.main",
    "scheduler": "scheduler.main",
    "worker": "workers.main",
    "standby": "workers.main",
    "kv": "kv.main",
    "metrics": "metrics.main",
    "accounts": "accounts.main",
    "batch": "batch.main",
    "supervisor": "cli.supervisor.main",
}

ROLES_TO_RUN: Final = tuple(_MAINS)
RoleMain = Callable[[str, Config, Path | None], int]


def check_name(name: str, config: Config) -> None:
    """Whether such a process can exist in this configuration.

    Raises:
        InvalidName: not a process name, or of a role that `run` does not start.
        ConfigError: its model is not configured.
    """
    role, instance = parse_process(name)
    if role not in _MAINS:
        raise InvalidName(f"{name}: {role} is not a process to run; those are {', '.join(_MAINS)}")
    if role == "scheduler":
        config.model_named(instance)
    if role in ("worker", "standby"):
        worker = parse_worker(instance)
        model = config.model_named(worker.model)
        if worker.replica >= model.all_replicas or worker.rank >= model.tensor_parallel:
            raise InvalidName(
                f"{name}: {model.name} has {model.all_replicas} replicas of {model.tensor_parallel} ranks, from 0"
            )


def load_main(role: str) -> RoleMain:
    """The entry point of a role; imports its folder."""
    main: RoleMain = import_module(_MAINS[role]).main
    return main
