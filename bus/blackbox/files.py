"""Which files the flight recorder has, in `blackbox` in the run directory, and which are let go.

RUN/blackbox/worker@smollm2.0.0.95492873.ring        of an incarnation, by name and epoch
RUN/blackbox/worker@smollm2.0.0.95492873.fatal       stacks at a fatal signal, where there was one
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final, NamedTuple

from bus.names import InvalidName, parse_process

_RING: Final = ".ring"
_FATAL: Final = ".fatal"
MOST: Final = 512  # recordings of all processes: of models that came and went, nobody else lets any go


class RecordingFile(NamedTuple):
    """The file of one incarnation."""

    name: str
    epoch: int
    path: Path


def directory(run: Path, *, create: bool = False) -> Path:
    """Where they are."""
    path = run / "blackbox"
    if create:
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def recording_path(directory: Path, name: str, epoch: int) -> Path:
    """Of one incarnation."""
    return directory / f"{name}.{epoch}{_RING}"


def fatal_path(recording: Path) -> Path:
    """Where the stacks at a fatal signal are."""
    return recording.with_name(recording.name.removesuffix(_RING) + _FATAL)


def found(directory: Path, name: str = "") -> list[RecordingFile]:
    """All recordings, or those of one process; by name, then oldest first."""
    recordings = []
    with contextlib.suppress(OSError):
        for path in directory.glob(f"*{_RING}"):
            who, dot, epoch = path.name.removesuffix(_RING).rpartition(".")
            with contextlib.suppress(InvalidName):
                parse_process(who)
                if dot and epoch.isdigit() and name in ("", who):
                    recordings.append(RecordingFile(who, int(epoch), path))
    return sorted(recordings)


def let_go(directory: Path, name: str, keep: int) -> None:
    """Remove what is older than the last `keep` of a process. Whoever has the name calls this: they are all dead."""
    its = found(directory, name)
    everybody = sorted(found(directory), key=lambda recording: recording.epoch)
    for recording in {*its[: max(0, len(its) - keep)], *everybody[: max(0, len(everybody) + 1 - MOST)]}:
        recording.path.unlink(missing_ok=True)
        fatal_path(recording.path).unlink(missing_ok=True)


def drop_empty(path: Path) -> None:
    """Remove a file in which nothing is."""
    with contextlib.suppress(OSError):
        if not path.stat().st_size:
            path.unlink()
