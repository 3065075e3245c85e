"""How the ranks of a replica find each other after any of them was restarted. Files only.

Rank 0 opens a *round*: a directory `<model>.<replica>.group/<number>` in the run directory. Every rank takes its seat
by creating a file with its pid there, exclusively, so a rank that restarts cannot enter a group that an earlier
incarnation of it was in: it waits for a new round. When all seats are taken by living processes, rank 0 writes `go`,
and everyone enters the group whose store lies in that directory. A seat whose process has died makes rank 0 open
another round.

The number grows with rank 0's epoch, so rounds of earlier incarnations are told apart, and are swept away.
"""

from __future__ import annotations

import os
import select
import shutil
from pathlib import Path
from typing import NamedTuple


class Meeting(NamedTuple):
    """A complete group.

    Attributes:
        number: the group's incarnation, the same on every rank, never used twice.
        store: file for the collectives' own rendezvous.
        pids: of all ranks, in order.
    """

    number: int
    store: Path
    pids: tuple[int, ...]


class Rendezvous:
    """One rank's way into a group. Call `poll` now and then; it never waits.

    Args:
        directory: where rounds are; the same for all ranks of the replica and for them only.
        rank, ranks: this process's place, and how many there are.
        epoch: of this process; rank 0's decides the round's number.
    """

    _ROUNDS_PER_EPOCH = 1000

    def __init__(self, directory: Path, rank: int, ranks: int, epoch: int) -> None:
        self._directory, self._rank, self._ranks = directory, rank, ranks
        self._round = epoch * self._ROUNDS_PER_EPOCH
        self._seated: Path | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if rank == 0:
            self._open_round()

    def poll(self) -> Meeting | None:
        """The group, once it is complete."""
        return self._host() if self._rank == 0 else self._attend()

    def _host(self) -> Meeting | None:
        place = self._place(self._round)
        pids = [_read_pid(place / f"seat{rank}") for rank in range(self._ranks)]
        if any(pid is not None and not _alive(pid) for pid in pids):
            self._open_round()
            return None
        if any(pid is None for pid in pids):
            return None
        (place / "go").touch()
        return self._meeting(self._round)

    def _attend(self) -> Meeting | None:
        newest = max((int(entry.name) for entry in self._directory.iterdir() if entry.name.isdigit()), default=0)
        place = self._place(newest)
        host = _read_pid(place / "seat0")
        if host is None or not _alive(host):
            return None
        if self._seated != place:
            if not _take_seat(place / f"seat{self._rank}"):
                return None  # an earlier incarnation of this rank was here: the host will see it dead, or die too
            self._seated = place
        return self._meeting(newest) if (place / "go").exists() else None

    def _open_round(self) -> None:
        self._round += 1
        for old in self._directory.iterdir():
            shutil.rmtree(old, ignore_errors=True)
        # Renamed into place with the host's seat taken, so that nobody finds a round without a host.
        prepared = self._directory / f".{self._round}"
        prepared.mkdir(mode=0o700)
        _take_seat(prepared / "seat0")
        prepared.rename(self._place(self._round))

    def _meeting(self, number: int) -> Meeting | None:
        place = self._place(number)
        pids = [_read_pid(place / f"seat{rank}") for rank in range(self._ranks)]
        known = tuple(pid for pid in pids if pid is not None)
        return Meeting(number, place / "store", known) if len(known) == self._ranks else None

    def _place(self, number: int) -> Path:
        return self._directory / str(number)


def _take_seat(seat: Path) -> bool:
    """Create a seat with this process's pid in it; False where it is taken, or the round is gone."""
    written = seat.with_name(f".{seat.name}.{os.getpid()}")
    try:
        written.write_text(str(os.getpid()))
        os.link(written, seat)  # complete when it appears, and exclusive
    except (FileExistsError, FileNotFoundError):
        return False
    finally:
        written.unlink(missing_ok=True)
    return True


def _read_pid(seat: Path) -> int | None:
    try:
        return int(seat.read_text())
    except FileNotFoundError:
        return None


def _alive(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([descriptor], [], [], 0)[0]  # readable: it ended, though nobody has reaped it yet
    finally:
        os.close(descriptor)
