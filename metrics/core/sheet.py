"""Models as they are served, and where the host's memory went. Arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bus.config import ModelConfig
from bus.messages.details import Memory, MemoryLine, ModelSheet
from bus.messages.vitals import PagesView, WorkerView
from metrics.core.fleet import Fleet
from metrics.core.views import Views

_ORDER: Final = ("weights", "arena", "process", "other", "available")


class Owned(NamedTuple):
    """Memory that belongs to somebody, in bytes.

    Attributes:
        private: of each process, by its pid.
        arena: given to the arena so far.
    """

    private: Mapping[int, int]
    arena: int


def model_sheets(models: Sequence[ModelConfig], views: Views, fleet: Fleet) -> tuple[ModelSheet, ...]:
    """Every configured model, in the order of the configuration."""
    arena = next((heard.view for heard in views.arenas.values()), None)
    return tuple(_sheet(model, _workers(views, model.name), fleet, arena) for model in models)


def _workers(views: Views, model: str) -> list[WorkerView]:
    return [heard.view for _, heard in sorted(views.workers.items()) if heard.view.model == model]


def _sheet(model: ModelConfig, workers: list[WorkerView], fleet: Fleet, arena: PagesView | None) -> ModelSheet:
    first = workers[0] if workers else None
    ready = sum(
        1 for worker in workers if (member := fleet.members.get(worker.name)) and member.sample.state == "ready"
    )
    replica = [worker for worker in workers if first is not None and worker.replica == first.replica]
    prefill = model.all_replicas - model.first_prefill
    return ModelSheet(
        model=model.name,
        source=model.source,
        file=first.file if first else "",
        architecture=first.architecture if first else "",
        parameters=first.parameters if first else 0,
        quantisation=first.quantisation if first else "",
        engine=first.engine if first else "",
        device=first.device if first else "",
        dtype=model.dtype,
        weight_bytes=sum(worker.weight_bytes for worker in replica),
        shared=bool(replica) and all(worker.shared for worker in replica),
        digest=first.digest if first else b"",
        kv_dtype=first.kv_dtype if first else "",
        kv_token_bytes=first.kv_token_bytes if first else 0,
        page_tokens=first.page_tokens if first else 0,
        context_tokens=first.context_tokens if first else model.context_tokens,
        vocabulary=first.vocabulary if first else 0,
        replicas=model.all_replicas - prefill,
        prefill_replicas=prefill,
        ranks=model.tensor_parallel,
        workers_ready=ready,
        workers=model.all_replicas * model.tensor_parallel,
        threads=first.threads if first else model.threads,
        slots=model.slots,
        step_tokens=model.step_tokens,
        load_s=max((worker.load_s for worker in workers), default=0.0),
        kv_limit_tokens=_kv_limit(model.name, first, arena),
        kind=first.kind if first else "generate",
        dimensions=first.dimensions if first else 0,
        device_memory=first.device_memory if first else (),
    )


def _kv_limit(model: str, worker: WorkerView | None, arena: PagesView | None) -> int:
    """Tokens whose KV the arena would hold, were it all of this model's."""
    if worker is None or arena is None:
        return 0
    capacity = max((pool.capacity for pool in arena.pools if f"scheduler@{model}" in pool.openers), default=0)
    return capacity * worker.page_tokens


def balance(memory: Memory, views: Views, fleet: Fleet, owned: Owned) -> tuple[MemoryLine, ...]:
    """The host's memory, to the last byte.

    Weights that are mapped from a file are the kernel's to take back, and it counts them as available; but then every
    step would read them again, so here they are not.
    """
    lines, mapped, held = [], 0, 0
    for (_, model, rank, _), (size, shared, users) in sorted(_weights(views).items()):
        mapped += size if shared else 0
        held += size
        note = f"mapped once, by {users}" if shared else f"{users} of its own" if users == 1 else f"{users} copies"
        lines.append(MemoryLine("weights", model if rank < 0 else f"{model} rank {rank}", size, note))
    if owned.arena or memory.arena:
        given = owned.arena or memory.arena
        lines.append(
            MemoryLine(
                "arena", "pages", given, f"of {memory.arena / (1 << 30):.1f} GiB" if given < memory.arena else ""
            )
        )
        held += given
    for role, (size, count) in sorted(_private(views, fleet, owned).items()):
        lines.append(MemoryLine("process", role, size, f"{count} process{'es' if count > 1 else ''}"))
        held += size
    available = max(0, memory.available - mapped)
    lines.append(MemoryLine("available", "available", available))
    lines.append(MemoryLine("other", "everything else", max(0, memory.total - held - available)))
    return tuple(sorted(lines, key=lambda line: (_ORDER.index(line.kind), -line.bytes)))


_WeightKey = tuple[bytes, str, int, str]


def _weights(views: Views) -> dict[_WeightKey, tuple[int, bool, int]]:
    """Bytes, whether they are shared, and how many use them; shared ones once."""
    found: dict[_WeightKey, tuple[int, bool, int]] = {}
    for heard in views.workers.values():
        view = heard.view
        key = (view.digest, view.model, view.rank if view.ranks > 1 else -1, view.engine)
        size, _, users = found.get(key, (0, view.shared, 0))
        found[key] = (view.weight_bytes if view.shared else size + view.weight_bytes, view.shared, users + 1)
    return found


def _private(views: Views, fleet: Fleet, owned: Owned) -> dict[str, tuple[int, int]]:
    """Bytes and processes by role; a worker's weights are counted elsewhere, where they are its own."""
    found: dict[str, tuple[int, int]] = {}
    for name, member in fleet.members.items():
        if member.gone or member.sample.pid not in owned.private:
            continue
        heard = views.workers.get(name)
        weights = heard.view.weight_bytes if heard is not None and not heard.view.shared else 0
        size, count = found.get(member.sample.role, (0, 0))
        found[member.sample.role] = (size + max(0, owned.private[member.sample.pid] - weights), count + 1)
    return found
