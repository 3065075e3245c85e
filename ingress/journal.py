"""The files that let a stream outlive its ingress: one per stream, in the run directory's memory.

    RUN/streams/ingress@0.95492873/chatcmpl-6d18ea135df1772d

A directory belongs to one incarnation, which holds a lock on it for its whole life: whoever can lock it knows that the
owner is dead, and may take the files in it by renaming them into its own. A rename is atomic, so one takes it and the
others find nothing. What is in a file is `records`'; what becomes of what was taken is `api.streaming`'s.

A stream whose file cannot be written goes on without one: it dies with this process, as it would if there were no
journal. The file is removed before its next event is shown, or another ingress would go on from a place that is past.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import resource
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bus.telemetry import Telemetry
from ingress.records import Adopted, Foreign, Opening, Record, Told, frame, read

log = logging.getLogger(__name__)

MAX_BYTES: Final = 512 << 20  # of one process; twice what the replays of complete streams may hold
MAX_STREAM_BYTES: Final = 32 << 20
RESERVE_BYTES: Final = 16 << 20  # of the run directory's file system, which is not ours alone
STALE_S: Final = 600.0  # what was left longer ago has no client that still waits for it
_RESPONSE: Final = re.compile(r"[a-z]+[-_][0-9a-f]{16}")


class Journal:
    """The file of one stream. Not `protected`: there is none, and the calls do nothing."""

    def __init__(self, journals: Journals, response: str) -> None:
        self.response = response
        self.protected = True
        self.bytes = 0
        self._journals = journals

    def write(self, record: Opening | Record) -> None:
        """Append. When this returns the record survives this process, or the stream is not protected any more."""
        if self.protected:
            self._journals._append(self, frame(record))

    def rest(self) -> None:
        """Nothing more will be written; the file stays."""
        self._journals._close(self.response)

    def drop(self) -> None:
        """Nobody will want to read it."""
        if self.protected:
            self.protected = False
            self._journals._remove(self)


class Taken(NamedTuple):
    """A stream that was taken over."""

    journal: Journal
    told: Told


class Journals:
    """All journals of one process, and what dead ones have left.

    Args:
        run: the run directory.
        name, epoch: this incarnation's.
        max_open: descriptors that are kept open for files that are written to; 0 takes a quarter of what this process
            may have. The others are opened for each record, which costs twice as much.
    """

    def __init__(self, run: Path, name: str, epoch: int, telemetry: Telemetry, *, max_open: int = 0) -> None:
        self._all, self._name, self._epoch = run / "streams", name, epoch
        self._mine = self._all / f"{name}.{epoch}"
        self._telemetry = telemetry
        self._max_open = max_open or max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._open: OrderedDict[str, int] = OrderedDict()  # least recently written first
        self._bytes = 0
        self._room = 0  # that may still be written before the next sweep
        self._foreign: set[Path] = set()  # told of already
        self._complaint = ""
        self._lock = -1
        self._closed = False
        self._gauge = telemetry.gauge("headrace_ingress_journal_bytes", "Bytes of streams that can be taken over.")
        self._adopted = telemetry.counter("headrace_ingress_adopted_total", "Streams taken over from dead ingresses.")
        try:
            self._lock = _own(self._mine)
        except OSError as error:
            self._complain(f"{self._mine}: {error.strerror}")
        self.sweep()

    # --- streams of this process -----------------------------------------------------------------------------------

    def begin(self, opening: Opening) -> Journal:
        """The journal of a new stream."""
        journal = Journal(self, opening.response)
        journal.write(opening)
        return journal

    def sweep(self) -> None:
        """See how much room there is. Call it about once a second."""
        self._room = 0
        if self._lock < 0:
            return
        try:
            os.utime(self._mine)  # so that who finds it left knows since when
            system = os.statvfs(self._mine)
        except OSError as error:
            self._complain(f"{self._mine}: {error.strerror}")
            return
        free = system.f_bavail * system.f_frsize - RESERVE_BYTES
        self._room = max(0, min(free, MAX_BYTES - self._bytes))
        self._gauge.set(self._bytes)

    def close(self) -> None:
        """Leave what is here to whoever takes it: nothing is written or removed any more."""
        self._closed = True
        for response in tuple(self._open):
            self._close(response)
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                self._mine.rmdir()
            os.close(self._lock)
            self._lock = -1

    def _append(self, journal: Journal, data: bytes) -> None:
        size = len(data)
        if self._closed:
            return
        if self._lock < 0:
            self._lose(journal, "error", "")  # told at the start
        elif size > self._room:
            self._lose(journal, "room", f"there is no room for more in {self._all}")
        elif journal.bytes + size > MAX_STREAM_BYTES:
            self._lose(journal, "size", f"{journal.response} is longer than {MAX_STREAM_BYTES >> 20} MiB of events")
        else:
            try:
                if os.write(self._descriptor(journal.response), data) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._lose(journal, "error", f"{self._mine}: {error.strerror}")
                return
            journal.bytes += size
            self._bytes += size
            self._room -= size

    def _descriptor(self, response: str) -> int:
        if (fd := self._open.get(response, -1)) >= 0:
            self._open.move_to_end(response)
            return fd
        if len(self._open) >= self._max_open:
            self._close(next(iter(self._open)))
        fd = os.open(self._mine / response, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._open[response] = fd
        return fd

    def _close(self, response: str) -> None:
        if (fd := self._open.pop(response, -1)) >= 0:
            os.close(fd)

    def _remove(self, journal: Journal) -> None:
        if self._closed:
            return
        self._close(journal.response)
        self._bytes -= journal.bytes
        with contextlib.suppress(OSError):
            os.unlink(self._mine / journal.response)

    def _lose(self, journal: Journal, reason: str, why: str) -> None:
        journal.drop()
        self._telemetry.counter(
            "headrace_ingress_unprotected_total", "Streams that would die with their ingress.", reason=reason
        ).add()
        self._complain(why)

    def _complain(self, why: str) -> None:
        """Once for each trouble, not for each event of each stream."""
        if why and why != self._complaint:
            self._complaint = why
            log.warning("streams die with this process, should it die: %s", why)

    # --- what the dead have left -----------------------------------------------------------------------------------

    def left(self) -> list[Path]:
        """The journals of dead ingresses. Their directories are removed when nothing is in them."""
        found: list[Path] = []
        for directory in self._dead():
            try:
                names = os.listdir(directory)
                stale = time.time() - directory.stat().st_mtime > STALE_S
                if stale and names:
                    log.info("%d streams in %s were left too long ago", len(names), directory)
                    for name in names:
                        os.unlink(directory / name)
                    names = []
                if names:
                    found += [directory / name for name in names]
                else:
                    directory.rmdir()
            except OSError as error:  # others do the same
                log.debug("%s: %s", directory, error)
        self._foreign &= set(found)
        return [path for path in found if path not in self._foreign]

    def find(self, response: str, owner: str) -> Path | None:
        """The journal of that id and owner that a dead ingress has left."""
        if _RESPONSE.fullmatch(response) is None:
            return None
        return next((path for directory in self._dead() if self._is(path := directory / response, owner)), None)

    def knows(self, response: str, owner: str) -> bool:
        """Whether any ingress, alive or dead, has a journal of that id and owner."""
        if _RESPONSE.fullmatch(response) is None:
            return False
        return any(self._is(directory / response, owner) for directory in self._directories())

    def take(self, path: Path) -> Taken | None:
        """Take over what a dead ingress has left; None where another was quicker, or nothing can be read there."""
        try:
            told = read(path.read_bytes())
            if told is None:
                path.unlink()
                return None
            path.rename(self._mine / path.name)
        except FileNotFoundError:
            return None
        except (Foreign, OSError) as error:
            if path not in self._foreign:
                self._foreign.add(path)
                log.error("%s cannot be taken over: %s", path, error)
            return None
        journal = Journal(self, path.name)
        journal.bytes = told.length
        self._bytes += told.length
        try:
            os.truncate(self._mine / path.name, told.length)
        except OSError as error:
            self._lose(journal, "error", f"{self._mine}: {error.strerror}")
        journal.write(Adopted(self._name, self._epoch))
        self._adopted.add()
        return Taken(journal, told)

    def _directories(self) -> list[Path]:
        try:
            return [Path(entry.path) for entry in os.scandir(self._all) if entry.is_dir()]
        except OSError:
            return []

    def _dead(self) -> Iterator[Path]:
        if self._closed:
            return
        for directory in self._directories():
            if directory != self._mine and _is_dead(directory):
                yield directory

    def _is(self, path: Path, owner: str) -> bool:
        try:
            told = read(path.read_bytes())
        except (Foreign, OSError):
            return False
        return told is not None and told.opening.owner == owner


def _own(directory: Path) -> int:
    """Make a directory and lock it; the descriptor that holds the lock. Whoever saw it before it was locked took its
    owner for dead, and may have removed it."""
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(directory), os.fstat(fd)):
                return fd
        os.close(fd)


def _is_dead(directory: Path) -> bool:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
