"""The arithmetic of capacity. Pure. docs/capacity.md says the same in words, with this code's numbers in its example.

Everything is counted but what each process takes for itself before it does anything: code, libraries, interpreter.
That was measured (`BASE_BYTES`), with one small model and nothing under way, and is about right for any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bus.config import Config, parse_size
from bus.names import parse_process, parse_worker, worker_of
from bus.shapes import ModelShape
from cli.supervisor.logfiles import KEPT, MAX_BYTES
from cli.supervisor.plan import desired_units
from kv.client import capacity

MIB: Final = 1 << 20
# Own memory of each process, as the kernel counts it (anonymous pages), 2026-11-26, two cores of Zen 4.
BASE_BYTES: Final = {
    "supervisor": 22 * MIB, "kv": 28 * MIB, "metrics": 23 * MIB, "accounts": 23 * MIB, "batch": 25 * MIB,
    "scheduler": 29 * MIB, "ingress": 55 * MIB,
    "worker": 150 * MIB, "standby": 150 * MIB,
}  # fmt: skip
INDEX_BYTES: Final = 400  # of kv's, for each page that is cached
JOURNAL_BYTES: Final = 512 * MIB  # of an ingress, at most: `ingress.journal.MAX_BYTES`
REPLAY_BYTES: Final = 256 * MIB  # of an ingress, at most: `ingress.replay.MAX_BYTES`
REPORT_BYTES: Final = 4 * MIB  # of a crash report, about
CONTEXTS: Final = (1024, 4096, 16384)


class Streams(msgspec.Struct, frozen=True):
    """How many requests of a length run at once. `pages` of one; `bound`: what there would have to be more of."""

    tokens: int
    pages: int
    streams: int
    bound: str


class ModelCapacity(msgspec.Struct, frozen=True):
    """A model with the arena to itself. Models that share it have it between them."""

    name: str
    problem: str = ""
    page_tokens: int = 0
    page_bytes: int = 0
    token_bytes: int = 0
    pages: int = 0
    tokens: int = 0
    slots: int = 0
    context_tokens: int = 0
    streams: tuple[Streams, ...] = ()
    computed_in: str = ""


class Memory(msgspec.Struct, frozen=True):
    """Something that takes memory. `why` says how it was counted."""

    what: str
    bytes: int
    why: str


class Capacity(msgspec.Struct, frozen=True):
    """A host's, in one configuration. `limits` are most, not what is taken from the start."""

    arena_bytes: int
    table_bytes: int
    slabs: int
    models: tuple[ModelCapacity, ...]
    memory: tuple[Memory, ...]
    memory_bytes: int
    limits: tuple[Memory, ...]
    disk: tuple[Memory, ...]


def count(config: Config, shapes: Sequence[ModelShape]) -> Capacity:
    """Everything.

    Raises:
        kv.layout.ArenaTooSmall: the arena has no room for a slab.
    """
    arena = capacity(parse_size(config.kv.arena), parse_size(config.kv.slab), 4096)
    memory = tuple(_memory(config, shapes, arena.arena_bytes))
    return Capacity(
        arena.arena_bytes, arena.table_bytes, arena.slabs,
        tuple(_model(config, shape) for shape in shapes),
        memory, sum(each.bytes for each in memory), tuple(_limits(config)), tuple(_disk(config, shapes)),
    )  # fmt: skip


def _model(config: Config, shape: ModelShape) -> ModelCapacity:
    if shape.kv is None:
        return ModelCapacity(shape.name, shape.problem, context_tokens=shape.context_tokens,
                             computed_in=shape.computed_in)  # fmt: skip
    model, page = config.model_named(shape.name), shape.kv.page_tokens
    room = capacity(parse_size(config.kv.arena), parse_size(config.kv.slab), shape.kv.page_bytes)
    slots = model.slots * (model.all_replicas if model.pools is None else model.pools.decode)
    lengths = sorted({*(each for each in CONTEXTS if each < shape.context_tokens), shape.context_tokens})
    return ModelCapacity(
        shape.name, "", page, shape.kv.page_bytes, room.stride // page, room.pages, room.pages * page, slots,
        shape.context_tokens, tuple(streams(length, page, room.pages, slots) for length in lengths), shape.computed_in,
    )  # fmt: skip


def streams(tokens: int, page_tokens: int, pages: int, slots: int) -> Streams:
    """Requests of so many tokens, prompt and answer, that run at once when no two begin alike."""
    each = -(-tokens // page_tokens)
    fit = pages // each
    return Streams(tokens, each, min(fit, slots), "arena" if fit < slots else "slots")


def _memory(config: Config, shapes: Sequence[ModelShape], arena_bytes: int) -> Iterator[Memory]:
    known = {shape.name: shape for shape in shapes}
    yield Memory("arena", arena_bytes, "[kv] arena, reserved at start")
    for shape in shapes:
        if not shape.problem:
            source = "as they are laid out" if shape.laid_out else "about: its files, not laid out yet"
            yield Memory(f"weights of {shape.name}", shape.weights_bytes, f"{source}; one copy for all that map it")
    yield Memory("supervisor@host", BASE_BYTES["supervisor"], "itself")
    most_pages = max((_model(config, shape).pages for shape in shapes), default=0)
    for unit in desired_units(config):
        base = BASE_BYTES[unit.role]
        match unit.role:
            case "kv":
                yield Memory(unit.name, base + INDEX_BYTES * most_pages, f"itself, and {INDEX_BYTES} bytes a page")
            case "worker" | "standby":
                name = worker_of(unit.name) if unit.role == "standby" else unit.name
                shape = known[parse_worker(parse_process(name).instance).model]
                yield Memory(
                    unit.name, base + shape.slot_bytes + shape.logits_bytes, "itself, tables of slots, logits of a step"
                )
            case _:
                yield Memory(unit.name, base, "itself")
    size = parse_size(config.blackbox.size)
    processes = len(desired_units(config)) + 1
    yield Memory("recordings", size * processes, f"[blackbox] size, {processes} processes; in the run directory")


def _limits(config: Config) -> Iterator[Memory]:
    """What grows with use, up to a limit. On a run directory in memory, its files are memory."""
    ingresses = config.ingress.processes
    dead = parse_size(config.blackbox.size) * (len(desired_units(config)) + 1) * (config.blackbox.incarnations - 1)
    yield Memory(
        "journals of streams", JOURNAL_BYTES * ingresses, "run directory, an ingress; what clients have not got"
    )
    yield Memory("complete streams", REPLAY_BYTES * ingresses, "an ingress, for resume_grace_s after their end")
    yield Memory("recordings of the dead", dead, "run directory, [blackbox] incarnations")


def _disk(config: Config, shapes: Sequence[ModelShape]) -> Iterator[Memory]:
    logs = sum(unit.role != "standby" for unit in desired_units(config)) + 1
    yield Memory(
        "logs", logs * MAX_BYTES * (KEPT + 1), f"{logs} files of {MAX_BYTES // MIB} MiB, {KEPT} older ones each"
    )
    yield Memory("weights, laid out", sum(shape.weights_bytes for shape in shapes), "mapped from there")
    yield Memory("pages of KV", parse_size(config.kv.disk), "[kv] disk")
    yield Memory("crash reports", config.blackbox.crashes * REPORT_BYTES, "[blackbox] crashes, some MiB each")
