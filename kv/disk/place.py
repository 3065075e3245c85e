"""The directory of the disk tier: claimed, tried out, or refused with what to do about it."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

from bus.config import KvConfig, parse_size
from bus.names import pages_directory
from kv.disk.record import BLOCK

log = logging.getLogger(__name__)

_SEGMENTS: Final = 16  # that a limit is good for, within these bounds
_SMALLEST: Final = 16 << 20
_LARGEST: Final = 256 << 20


class DiskUnusable(RuntimeError):
    """The tier cannot work there. The message says why, and what would help."""


class DiskInUse(RuntimeError):
    """Another page server keeps its pages there."""


class DiskPlace(NamedTuple):
    """A directory that is ours.

    Attributes:
        lock: the descriptor whose lock says so.
        limit: bytes that its files may take.
        direct: whether O_DIRECT works there: pages then go between arena and device without a copy in between.
    """

    directory: Path
    lock: int
    limit: int
    segment_bytes: int
    direct: bool

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{segment:012d}.pages"

    def segments(self) -> list[int]:
        """Numbers of the files that are there, oldest first."""
        return sorted(int(path.stem) for path in self.directory.glob("*.pages") if path.stem.isdigit())


def open_place(config: KvConfig) -> DiskPlace | None:
    """What `[kv] disk` and `disk_path` say; None where the tier is off.

    Raises:
        DiskUnusable, DiskInUse: see there.
    """
    limit = parse_size(config.disk)
    if not limit:
        return None
    directory = Path(config.disk_path)
    try:
        directory = pages_directory(config.disk_path)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _claim(directory / "lock")
        try:
            direct = _try_out(directory / "probe")
        except OSError:
            os.close(lock)
            raise
    except OSError as error:
        raise DiskUnusable(
            f"{directory}: {error.strerror or error}; make it writable for this user, name another directory in "
            'disk_path, or say disk = "0"'
        ) from None
    segment = min(_LARGEST, max(_SMALLEST, limit // _SEGMENTS)) // BLOCK * BLOCK
    return DiskPlace(directory, lock, limit, segment, direct)


def _claim(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise DiskInUse(
            f"{path.parent} belongs to another page server that runs; give this one a disk_path of its own"
        ) from None
    return fd


def _try_out(path: Path) -> bool:
    """Write and read a block, past the page cache if the file system lets us."""
    block = mmap.mmap(-1, BLOCK)
    for flag in (os.O_DIRECT, 0):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | flag, 0o600)
            try:
                os.pwrite(fd, block, 0)
                os.preadv(fd, [block], 0)
            finally:
                os.close(fd)
        except OSError:
            if not flag:
                raise
            continue
        finally:
            path.unlink(missing_ok=True)
        if not flag:
            log.info("no direct I/O in %s: pages go through the page cache", path.parent)
        return bool(flag)
    raise AssertionError("the second try returns or raises")
