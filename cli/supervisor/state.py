"""What a supervisor writes down so that the next one can take over: a small file in the run directory.

The next one may be of another release: fields are only ever added, with defaults, and unknown ones are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

STATE_FILE: Final = "supervisor.json"
CONFIG_COPY: Final = "headrace.toml"


class SavedUnit(msgspec.Struct, frozen=True):
    """A process that was started. `(pid, start_ticks)` names it for ever; `fingerprint` is of its configuration;
    `held`: an operator drained it."""

    pid: int
    start_ticks: int
    starts: int
    fingerprint: str
    held: bool = False


class SavedState(msgspec.Struct, frozen=True):
    """Everything that cannot be read from the processes themselves."""

    config: str = ""
    arena_inode: int = 0
    arena_bytes: int = 0
    units: dict[str, SavedUnit] = {}


def load_state(run: Path) -> SavedState:
    """The state that was written last; an empty one where there is none or it cannot be read (it is only a help)."""
    try:
        return msgspec.json.decode((run / STATE_FILE).read_bytes(), type=SavedState)
    except (OSError, msgspec.DecodeError):
        return SavedState()


def save_state(run: Path, state: SavedState) -> None:
    """Replace the file, whole or not at all."""
    write_atomically(run / STATE_FILE, msgspec.json.format(msgspec.json.encode(state)))


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
