"""Where processes write what they say: one file each, bounded, and followed by whoever shows it.

Processes write to the files themselves, not through a pipe to the supervisor: they must neither stop nor fall silent
when the supervisor dies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bus.names import state_directory

MAX_BYTES: Final = 16 << 20
KEPT: Final = 2


def log_directory() -> Path:
    """`$HEADRACE_STATE/log`."""
    path = state_directory() / "log"
    path.mkdir(mode=0o750, exist_ok=True)
    return path


def log_path(name: str) -> Path:
    """The file of one process."""
    return log_directory() / f"{name}.log"


def open_log(name: str) -> int:
    """For a process to write to, at the end whatever others do. The caller closes it."""
    return os.open(log_path(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Keep a file below `max_bytes`, and `KEPT` older ones. True where it was cut.

    The writer holds its descriptor for ever, so the content is copied away and the file cut to nothing; being in
    append mode the writer goes on at the start. Lines written between the two are lost: microseconds, once in 16 MiB.
    """
    try:
        if path.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    try:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    except OSError:
        path.with_name(f"{path.name}.1").unlink(missing_ok=True)  # a full disk is the best reason to cut
    os.truncate(path, 0)
    return True


def last_lines(path: Path, count: int, since: int = 0) -> list[str]:
    """The end of a file, from byte `since` on."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [printable(line) for line in text.splitlines()[-count:]]


def printable(line: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character if character.isprintable() or character == "\t" else "�" for character in line)


class Tail:
    """Follows one file from its present end, line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self) -> Iterator[str]:
        """Whole lines that are new since the last call."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        if os.fstat(self._fd).st_size < self._offset:
            self._offset = 0  # it was cut
        while data := os.pread(self._fd, 1 << 16, self._offset):
            self._offset += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                yield printable(line.decode("utf-8", "replace"))

    def close(self) -> None:
        """Stop following."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
