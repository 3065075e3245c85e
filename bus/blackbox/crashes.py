"""Which crash reports are kept, in `crashes` in the state directory: who writes them, lists them and tells of them goes
by their names, `2026-11-26T01-41-02Z-worker@smollm2.0.0.tar.gz`. What is in one, `cli.report` knows.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from pathlib import Path
from typing import Final, NamedTuple

from bus.names import InvalidName, parse_process, state_directory

SUFFIX: Final = ".tar.gz"
_STAMP: Final = "%Y-%m-%dT%H-%M-%SZ"


class CrashFile(NamedTuple):
    """A crash report by its name. `at`: when it was begun, seconds since 1970."""

    at: float
    process: str
    path: Path


def directory() -> Path:
    """`$HEADRACE_STATE/crashes`, which need not be there."""
    return state_directory() / "crashes"


def path_of(process: str, at: float) -> Path:
    """Where the report of a crash goes."""
    return directory() / f"{time.strftime(_STAMP, time.gmtime(at))}-{process}{SUFFIX}"


def found() -> list[CrashFile]:
    """All that are there, oldest first. What has another name is not one."""
    files = []
    with contextlib.suppress(OSError):
        for path in directory().iterdir():
            stamp, mark, process = path.name.removesuffix(SUFFIX).partition("Z-")
            if path.name.endswith(SUFFIX) and mark:
                with contextlib.suppress(InvalidName, ValueError):
                    parse_process(process)
                    at = datetime.datetime.strptime(f"{stamp}Z", _STAMP).replace(tzinfo=datetime.UTC)
                    files.append(CrashFile(at.timestamp(), process, path))
    return sorted(files)
