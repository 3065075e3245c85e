"""The log files of `headrace up` as a source of records: the last of each file, and then what comes. Bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bus.logread.records import LogRecord, from_lines
from bus.names import state_directory

BACKLOG_BYTES: Final = 4 << 20  # of all files together, at first
LEAST_BYTES, MOST_BYTES = 32 << 10, 4 << 20  # of one of them, at first and each time
LONGEST_LINE: Final = 64 << 10


def log_files() -> Path:
    """`$HEADRACE_STATE/log`, which need not be there."""
    return state_directory() / "log"


class _File:
    """One file that is followed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unit = path.name.removesuffix(".log")
        self._offset = -1
        self._rest = b""

    def poll(self, most: int) -> list[LogRecord]:
        """Whole lines that are new, of at most so many bytes.

        Raises:
            OSError: it cannot be read.
        """
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = self._offset < 0
            if first:
                self._offset = max(0, size - most)
            elif size < self._offset:
                self._offset, self._rest = 0, b""  # it was cut
            elif size - self._offset > most:
                self._offset, self._rest = size - most, b""  # more than anybody reads
            file.seek(self._offset)
            data = file.read(most)
            written_at = os.fstat(file.fileno()).st_mtime
        began = self._offset
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LONGEST_LINE:]
        lines = [line[:LONGEST_LINE].decode("utf-8", "replace") for line in (whole[1:] if first and began else whole)]
        return from_lines(lines, self._unit, written_at)


class FileSource:
    """All log files of a directory."""

    label = "log files"
    suppressed = 0

    def __init__(self, directory: Path, backlog: int = BACKLOG_BYTES) -> None:
        self._directory, self._backlog = directory, backlog
        self._files: dict[Path, _File] = {}
        self.problem = ""

    def poll(self) -> list[LogRecord]:
        """What is new in all of them, in order of time."""
        self.problem = ""
        try:
            paths = sorted(path for path in self._directory.iterdir() if path.name.endswith(".log"))
        except FileNotFoundError:
            self.problem = f"no log files in {self._directory}: is headrace up, and HEADRACE_STATE the same?"
            return []
        except OSError as error:
            self.problem = f"{self._directory}: {error.strerror}; ask as the stack's own user"
            return []
        found: list[LogRecord] = []
        most = min(MOST_BYTES, max(LEAST_BYTES, self._backlog // max(1, len(paths))))
        for path in paths:
            try:
                found += self._files.setdefault(path, _File(path)).poll(most)
            except OSError as error:
                self.problem = f"{path}: {error.strerror}"
        return sorted(found, key=lambda record: record.at)

    def close(self) -> None:
        """Nothing is held open."""


def freshest(directory: Path) -> float:
    """When a log file was last written to, seconds since 1970; 0 where there is none."""
    try:
        return max((path.stat().st_mtime for path in directory.glob("*.log")), default=0.0)
    except OSError:
        return 0.0
