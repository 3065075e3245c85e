"""The audit log: what operators did, one JSON object a line, in `$HEADRACE_STATE/audit/NAME.ndjson`.

Each process writes the actions that it carries out itself, so a record cannot be missing because somebody between died.
Nobody else writes to its file (its name is its own), which is bounded: beyond `MAX_BYTES` it is renamed, and `KEPT`
older ones are kept. A line is on its way to the disk before the operator is answered; a thread waits for the disk. What
cannot be written is told, and never stands in the way of the action.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from bus.names import state_directory

MAX_BYTES: Final = 1 << 20
KEPT: Final = 4
NEWEST_BYTES: Final = 64 << 10
LONGEST_TEXT: Final = 500  # of what comes from the operator


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action.

    Attributes:
        at: seconds since 1970.
        process: who carried it out, or refused it.
        uid, pid: of the operator's program, from the kernel; `user` is the name that the user database has for it.
        program: what the program says it is: "cli", "tui".
        verb, object: what was to be done to what.
        result: "done", "refused" (not possible now) or "denied" (not allowed).
        before, after: states or values.
        missed: denied actions before this one that were too many to be written.
    """

    at: float
    process: str
    uid: int
    user: str
    pid: int
    program: str
    verb: str
    object: str
    result: Literal["done", "refused", "denied"]
    reason: str = ""
    detail: str = ""
    before: str = ""
    after: str = ""
    missed: int = 0


def audit_directory() -> Path:
    """Where the files are; made when the first is written."""
    return state_directory() / "audit"


class ActionLog:
    """One process's file.

    Args:
        name: of the process.
    """

    def __init__(self, name: str, directory: Path | None = None) -> None:
        self._name, self._directory = name, directory
        self._syncing: threading.Thread | None = None

    def write(self, record: ActionRecord) -> str:
        """Append a record. Returns why that was not possible; empty where it was."""
        try:
            directory = self._directory or audit_directory()
            directory.mkdir(mode=0o750, exist_ok=True)
            path = directory / f"{self._name}.ndjson"
            _rotate(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                _append(fd, msgspec.json.encode(record) + b"\n")
            except OSError:
                os.close(fd)
                raise
        except OSError as error:
            return error.strerror or str(error)
        self._sync(fd)
        return ""

    def close(self) -> None:
        """Wait for the disk, but not for ever."""
        if self._syncing is not None:
            self._syncing.join(1.0)

    def _sync(self, fd: int) -> None:
        """Make it durable, without holding up the process: a disk may be slow exactly when operators act."""
        before = self._syncing
        if before is not None and before.is_alive():
            os.close(fd)  # the disk is stuck: one waits for it, not a queue of them
            return

        def wait() -> None:
            try:
                os.fdatasync(fd)
            except OSError:
                pass  # the line is in the file; what the disk did not take, the log has
            finally:
                os.close(fd)

        self._syncing = threading.Thread(target=wait, name="audit-sync", daemon=True)
        self._syncing.start()


def _append(fd: int, line: bytes) -> None:
    """All of the line or nothing of it, at the beginning of a line."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        line = b"\n" + line  # somebody was cut off
    if os.write(fd, line) != len(line):
        os.ftruncate(fd, size)
        raise OSError(28, "No space left on device")


def _rotate(path: Path) -> None:
    try:
        if path.stat().st_size < MAX_BYTES:
            return
    except FileNotFoundError:
        return
    for number in range(KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def read_actions(directory: Path, since: float = 0.0) -> list[ActionRecord]:
    """What all processes wrote, oldest first. Lines that are no records are left out.

    Raises:
        OSError: the directory, or a file in it, may not be read.
    """
    found = (record for record in each_action(directory) if record.at >= since)
    return sorted(found, key=lambda record: record.at)


def each_action(directory: Path) -> Iterator[ActionRecord]:
    """All records, one process's after the other's. Lines that are no records are left out.

    Raises:
        OSError: the directory, or a file in it, may not be read.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(directory.iterdir()):
            if ".ndjson" in path.name:
                yield from _records(path)


def newest_actions(directory: Path) -> list[ActionRecord]:
    """The newest of every process, oldest first; of each as many as a screen can show.

    Raises:
        OSError: the directory, or a file in it, may not be read.
    """
    if not directory.exists():
        return []
    decoder = msgspec.json.Decoder(ActionRecord)
    found: list[ActionRecord] = []
    for path in directory.glob("*.ndjson"):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - NEWEST_BYTES))
            for line in file.read(NEWEST_BYTES).splitlines():
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    found.append(decoder.decode(line))
    return sorted(found, key=lambda record: record.at)


def _records(path: Path) -> Iterator[ActionRecord]:
    decoder = msgspec.json.Decoder(ActionRecord)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # it may be renamed just now
        for line in file:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield decoder.decode(line)
