"""Which cores, memory and GPU each rank of a configuration gets. Pure.

All ranks are given cores of their own on one node each, or none is: a rank that is pinned beside one that roams would
have its cores taken. The ranks of a replica go to one node where they fit there together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus.config import Config, ModelConfig
from bus.names import worker_name
from cli.supervisor.children import threads_of
from cli.supervisor.plan import unit_named


class Node(NamedTuple):
    """A NUMA node, and those of its cores that may be used."""

    number: int
    cpus: tuple[int, ...]


class Host(NamedTuple):
    """What there is to be given out."""

    nodes: tuple[Node, ...]
    gpus: int = 0

    @property
    def cores(self) -> int:
        """Of all nodes."""
        return sum(len(node.cpus) for node in self.nodes)


class Place(NamedTuple):
    """What a rank gets. Without `cpus` it may run anywhere; `node` and `gpu` are -1 where none is meant."""

    threads: int
    cpus: tuple[int, ...] = ()
    node: int = -1
    gpu: int = -1


class TooFewGpus(ValueError):
    """The configuration asks for more GPUs than the host has."""


def place(config: Config, host: Host) -> dict[str, Place]:
    """The place of every worker, by process name.

    Raises:
        TooFewGpus: see there.
    """
    replicas = [
        _replica(config, model, replica, host) for model in config.model for replica in range(model.all_replicas)
    ]
    cores = (
        _give_cores([list(replica.values()) for replica in replicas], host) if config.systemd.pin == "auto" else None
    )
    places: dict[str, Place] = {}
    gpus = 0
    given = iter(cores or [])
    for replica in replicas:
        for name, threads in replica.items():
            node, cpus = next(given) if cores is not None else (-1, ())
            gpu = -1
            if config.model_named(unit_model(name)).device == "cuda":
                gpu, gpus = gpus, gpus + 1
            places[name] = Place(threads, cpus, node, gpu)
    if gpus > host.gpus:
        raise TooFewGpus(f"the configuration needs {gpus} GPUs, this host has {host.gpus}")
    return places


def unit_model(worker: str) -> str:
    """The model of a worker's name."""
    return worker.partition("@")[2].rsplit(".", 2)[0]


def _replica(config: Config, model: ModelConfig, replica: int, host: Host) -> dict[str, int]:
    names = [worker_name(model.name, replica, rank) for rank in range(model.tensor_parallel)]
    return {name: threads_of(unit_named(name), config, host.cores) for name in names}


def _give_cores(replicas: Sequence[Sequence[int]], host: Host) -> list[tuple[int, tuple[int, ...]]] | None:
    """Node and cores of every rank; None where they do not fit, or where there is nothing to choose."""
    if len(host.nodes) == 1 and sum(len(ranks) for ranks in replicas) == 1 and replicas[0][0] >= host.cores:
        return None
    free = {node.number: list(node.cpus) for node in host.nodes}
    given: list[tuple[int, tuple[int, ...]]] = []
    for ranks in replicas:
        together = _roomiest(free, sum(ranks))
        for threads in ranks:
            node = together if together is not None else _roomiest(free, threads)
            if node is None:
                return None
            given.append((node, tuple(free[node][:threads])))
            del free[node][:threads]
    return given


def _roomiest(free: dict[int, list[int]], wanted: int) -> int | None:
    """The node with the most free cores, where those are enough; the first of equals."""
    node = max(free, key=lambda number: (len(free[number]), -number), default=None)
    return node if node is not None and len(free[node]) >= wanted else None
