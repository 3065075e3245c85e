"""What every way of fetching shares: errors, progress, hashing, the lock, and the file that says what was verified."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

CHUNK: Final = 1 << 20
_HEADROOM: Final = 64 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PullFailed(Exception):
    """The model could not be fetched. The message says why and what to do."""


class DiskFull(PullFailed):
    """No source can help."""


class Progress(Protocol):
    """Where progress is shown."""

    def __call__(self, done: int, total: int, doing: str) -> None:
        """`done` of `total` bytes."""
        ...


def sidecar(path: Path) -> Path:
    """Where a file's verified hash is written."""
    return path.with_name(path.name + ".sha256")


def write_sidecar(path: Path, digest: str) -> None:
    """Say that `path`, as it is now, has this sha256: `hex size mtime_ns`. Readers need not hash gigabytes again."""
    stat = path.stat()
    sidecar(path).write_text(f"{digest} {stat.st_size} {stat.st_mtime_ns}\n")


def verified(path: Path) -> str:
    """The sha256 that was verified for a file, if it has not changed since; empty otherwise."""
    try:
        digest, size, mtime_ns = sidecar(path).read_text().split()
        stat = path.stat()
    except (OSError, ValueError):
        return ""
    return digest if (size, mtime_ns) == (str(stat.st_size), str(stat.st_mtime_ns)) else ""


def sha256(path: Path, total: int, progress: Progress) -> str:
    """Hash a file, showing how far it is."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total, "verifying")
    return digest.hexdigest()


@contextlib.contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """The directory in which `path` is put together; of one process at a time.

    Raises:
        PullFailed: another process is at it.
        DiskFull: while it was used.
    """
    directory = path.with_name(path.name + ".parts")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise PullFailed(f"{directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PullFailed(f"another headrace pull is fetching {path.name}") from None
        try:
            yield directory
        except OSError as error:
            if error.errno in _FULL:
                raise disk_full(directory) from None
            raise PullFailed(f"{error.filename or directory}: {error.strerror or error}") from None
    finally:
        os.close(lock)


def disk_full(directory: Path) -> DiskFull:
    """The error to raise."""
    return DiskFull(f"the disk of {directory} is full; free some space and pull again: it goes on where it was")


def check_space(directory: Path, needed: int, name: str) -> None:
    """Refuse early what cannot fit.

    Raises:
        DiskFull: it cannot.
    """
    free = shutil.disk_usage(directory).free
    if needed + _HEADROOM > free:
        raise DiskFull(f"{name} needs {needed >> 20} MiB in {directory.parent}, which has {free >> 20} MiB free")
