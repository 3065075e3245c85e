"""The machine, and who uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from metrics.core.findings import Condition

HOST: Final = "host"
MEMORY_LOW: Final = 0.04
MEMORY_WAITS: Final = 0.10  # of the time all tasks wait for memory
STEAL: Final = 0.10
FULL: Final = 0.95  # of all cores: nobody who wants one has to wait below this
OTHERS: Final = 0.25  # of all cores that others take
CRASH_S: Final = 1800.0  # for so long a crash is news
DISK_LOW: Final = 0.02
DISK_LOW_BYTES: Final = 256 << 20


class Room(NamedTuple):
    """A file system that headrace writes to, and what for."""

    what: str
    path: str
    free: int
    total: int


class Crash(NamedTuple):
    """A crash report that is kept: whose, where, and how old."""

    process: str
    path: str
    age_s: float


class HostView(NamedTuple):
    """The machine over the last seconds.

    Attributes:
        cores: that it has; `busy` of them were in use, `stolen` were given to other guests of the same hardware.
        memory_waits: share of the time that all tasks waited for memory (PSI full).
    """

    cores: int
    busy: float
    stolen: float
    memory_total: int
    memory_available: int
    memory_waits: float
    rooms: tuple[Room, ...] = ()
    crashes: tuple[Crash, ...] = ()


def host_conditions(view: HostView, own_cores: float) -> Iterator[Condition]:
    """What the machine lacks.

    Args:
        own_cores: of the busy ones, those that processes of headrace used.
    """
    if view.memory_total and view.memory_available < MEMORY_LOW * view.memory_total:
        text = f"{_size(view.memory_available)} of {_size(view.memory_total)} memory are left"
        yield Condition("memory-low", "crit", HOST, text)
    elif view.memory_waits > MEMORY_WAITS:
        text = f"all programs wait for memory {view.memory_waits:.0%} of the time"
        yield Condition("memory-low", "warn", HOST, text, cause="it is swapped, or read again and again")
    for room in view.rooms:
        if room.total and (room.free < DISK_LOW_BYTES and room.free < DISK_LOW * room.total):
            text = f"{_size(room.free)} are left in {room.path}"
            yield Condition("disk-full", "crit", room.what, text)
    newest = {crash.process: crash for crash in sorted(view.crashes, key=lambda crash: -crash.age_s)}
    for process, crash in sorted(newest.items()):
        if 0 <= crash.age_s < CRASH_S:
            yield Condition("crashed", "warn", process, f"crashed; the report is {crash.path}")
    if not view.cores:
        return
    if view.stolen > STEAL * view.cores:
        text = f"{view.stolen:.1f} of {view.cores} cores are given to other guests"
        yield Condition("cpu-steal", "warn", HOST, text, cause="the hardware is oversubscribed")
    others = view.busy - own_cores
    if view.busy > FULL * view.cores and others > OTHERS * view.cores:
        text = f"all {view.cores} cores are in use, {others:.1f} of them by other programs"
        yield Condition("cpu-crowded", "warn", HOST, text)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
