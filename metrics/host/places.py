"""Where a process runs, and what memory is its own. Reads; what cannot be read is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from metrics.host.files import text

_LAST_CPU: Final = 36  # field 39 of /proc/PID/stat, of those behind the name in brackets
_ARENA: Final = "/memfd:"


class Place(NamedTuple):
    """Of one process.

    Attributes:
        cpu: its main thread was last seen on; -1 where unknown.
        cpus: where it may run.
    """

    cpu: int
    cpus: frozenset[int]


def place(root: Path, pid: int) -> Place:
    """Where it is."""
    fields = text(root / f"proc/{pid}/stat").rpartition(")")[2].split()
    cpu = int(fields[_LAST_CPU]) if len(fields) > _LAST_CPU and fields[_LAST_CPU].isdigit() else -1
    try:
        return Place(cpu, frozenset(os.sched_getaffinity(pid)) if cpu >= 0 else frozenset())
    except OSError:
        return Place(cpu, frozenset())


def private_bytes(root: Path, pid: int) -> int:
    """Memory that is its own: not files that it maps, nor the arena."""
    for line in text(root / f"proc/{pid}/status").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def memfd_bytes(root: Path, pid: int) -> int:
    """What the kernel has given to the memory files that it keeps open: of an arena, what was ever written."""
    found: dict[int, int] = {}
    try:
        for descriptor in (root / f"proc/{pid}/fd").iterdir():
            try:
                if os.readlink(descriptor).startswith(_ARENA):
                    known = descriptor.stat()
                    found[known.st_ino] = known.st_blocks * 512
            except OSError:
                continue  # it was closed meanwhile
    except OSError:
        return 0  # not ours to look at
    return sum(found.values())
