"""What this host can do at most, as it was measured once: a small file in the state directory.

Written by `workers.ceilings` (`headrace bench --ceilings`), read by the metrics process. It is of one processor: on
another one, or with another number of cores, it says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from bus.names import state_directory

FILE: Final = "ceilings.json"


class Ceilings(msgspec.Struct, frozen=True):
    """The measurement.

    Attributes:
        processor, cores: of which host.
        measured: when, ISO 8601.
        read_bytes_per_s: memory, all cores together.
        operations_per_s: multiplications and additions of matrix products, all cores together, by type of number:
            "int8", "bfloat16", "float32".
    """

    processor: str
    cores: int
    measured: str
    read_bytes_per_s: float
    operations_per_s: dict[str, float]


def ceilings_file() -> Path:
    """Where it is."""
    return state_directory() / FILE


def save(ceilings: Ceilings) -> Path:
    """Write it, in the place of the one before.

    Raises:
        OSError: it cannot be written.
    """
    path = ceilings_file()
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(ceilings)) + b"\n")
    fresh.rename(path)
    return path


def load(path: Path) -> Ceilings | None:
    """The measurement of this host; None where there is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Ceilings)
    except (OSError, msgspec.DecodeError):
        return None
    plausible = found.read_bytes_per_s > 0 and all(value > 0 for value in found.operations_per_s.values())
    return found if plausible and (found.processor, found.cores) == (processor(), cores()) else None


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The first core's name."""
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "CPU part"):
            return value.strip()
    return "unknown"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
