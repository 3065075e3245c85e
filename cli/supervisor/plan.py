"""Which processes a configuration asks for, and which of them run in an older one. Pure."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import msgspec

from bus.config import Config, ModelConfig
from bus.names import (
    ACCOUNTS,
    KV,
    METRICS,
    ingress_name,
    parse_process,
    parse_worker,
    scheduler_name,
    standby_name,
    worker_name,
)

START_ORDER: Final = ("kv", "metrics", "accounts", "scheduler", "worker", "ingress", "standby")
# Standbys first: none must take the place of a worker that is told to end.
STOP_ORDER: Final = ("standby", "ingress", "scheduler", "worker", "accounts", "metrics", "kv")


class Unit(NamedTuple):
    """One process that should run. Units of one `group` live and die together: the ranks of a replica."""

    name: str
    role: str
    group: str


def unit_named(name: str) -> Unit:
    """The unit of a process name.

    Raises:
        InvalidName: it is not one of a process.
    """
    role, instance = parse_process(name)
    if role != "worker":
        return Unit(name, role, name)
    worker = parse_worker(instance)
    return Unit(name, role, f"worker@{worker.model}.{worker.replica}")


def desired_units(config: Config) -> tuple[Unit, ...]:
    """Every process of a host, in the order in which they are started."""
    names = [KV, METRICS, *([ACCOUNTS] if config.accounts.keys != "off" else [])]
    names += [scheduler_name(model.name) for model in config.model]
    names += [worker for model in config.model for worker in _workers(model)]
    names += [ingress_name(index) for index in range(config.ingress.processes)]
    names += [standby_name(worker) for model in config.model if model.standby for worker in _workers(model)]
    return tuple(unit_named(name) for name in names)


def _workers(model: ModelConfig) -> list[str]:
    ranks = range(model.tensor_parallel)
    return [worker_name(model.name, replica, rank) for replica in range(model.all_replicas) for rank in ranks]


def fingerprint(config: Config, name: str) -> str:
    """Digest of the parts of a configuration that a process was started with.

    Two configurations with the same fingerprint of a process need no restart of it.
    """
    unit = unit_named(name)
    match unit.role:
        case "scheduler":
            parts: object = [m for m in config.model if m.name == parse_process(name).instance]
        case "worker" | "standby":
            parts = [m for m in config.model if m.name == parse_worker(parse_process(name).instance).model]
        case "ingress":
            parts = [
                config.ingress, config.curve, config.model, config.usage.ledger, config.accounts, config.price,
                config.cache, config.guard, config.cost,
            ]  # fmt: skip
        case "kv":
            parts = [config.kv]
        case "accounts":
            parts = [config.cost.currency]
        case _:
            parts = [
                config.metrics,
                config.alarms,
                config.usage,
                config.cost,
                config.traces,
                config.model,
                config.ingress,
            ]
    told = msgspec.json.encode([parts, config.log, config.blackbox, config.admin], order="deterministic")
    return hashlib.sha256(told).hexdigest()[:16]
