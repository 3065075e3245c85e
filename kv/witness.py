"""The table of processes in the arena: which may write pages, and which hold some.

The next incarnation waits for the deaths of the ones, and for the others to say what they hold. An entry is never
changed: a new one takes its place, and becomes valid by one store of eight bytes, so a kill leaves the old one, the new
one, or both. One whose check sum does not fit may stand for anybody: `damaged` says that there is one.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kv.owners import Writer, WriterKey

WRITES: Final = 1
HOLDS: Final = 2


class Living(NamedTuple):
    """A worker of the table whose process lives. Names are not in the arena, their hashes are."""

    pid: int
    key: WriterKey
    writer: Writer


class Holder(NamedTuple):
    """A scheduler of the table whose process lives, and the pools that it has opened."""

    pid: int
    key: WriterKey
    pools: set[int]


class Witness:
    """Writes and reads the table.

    Args:
        table: `kv.layout.WRITER` records.
    """

    def __init__(self, table: npt.NDArray[np.void]) -> None:
        self._table = table

    def note(self, key: WriterKey, writer: Writer, pid: int) -> bool:
        """A worker may write from now on, or has fenced. False where the table is full: it must not write."""
        return self._note(WRITES, key, pid, owner=writer.owner, fenced=writer.fenced)

    def note_holder(self, key: WriterKey, pid: int) -> bool:
        """A scheduler may hold pages from now on. False where the table is full: it must not."""
        return self._note(HOLDS, key, pid)

    def note_pool(self, key: WriterKey, number: int) -> None:
        """It may hold pages of this pool."""
        for at in self._find(key):
            self._note(HOLDS, key, int(self._table["pid"][at]), pools=1 << number - 1)

    def forget(self, key: WriterKey) -> None:
        """It is dead, or holds nothing any more."""
        self._table["state"][self._find(key)] = 0

    def living(self) -> list[Living]:
        """Workers of the table that live; the others are forgotten."""
        found: dict[WriterKey, Living] = {}
        for entry in self._living(WRITES):
            key, fenced = _key(entry), int(entry["fenced"])
            if key not in found or found[key].writer.fenced < fenced:
                found[key] = Living(int(entry["pid"]), key, Writer(int(entry["owner"]), fenced))
        return list(found.values())

    def holders(self) -> list[Holder]:
        """Schedulers of the table that live; the others are forgotten."""
        found: dict[WriterKey, Holder] = {}
        for entry in self._living(HOLDS):
            holder = found.setdefault(_key(entry), Holder(int(entry["pid"]), _key(entry), set()))
            holder.pools.update(bit + 1 for bit in range(64) if int(entry["pools"]) >> bit & 1)
        return list(found.values())

    @property
    def damaged(self) -> bool:
        """Whether there is an entry that says nothing: somebody that nobody knows may write and hold pages."""
        return any(_state(entry) != entry["state"] for entry in self._table[self._table["state"] != 0])

    def _note(self, kind: int, key: WriterKey, pid: int, *, owner: int = 0, fenced: int = 0, pools: int = 0) -> bool:
        older = self._find(key)
        free = np.flatnonzero(self._table["state"] == 0)
        if len(free) < (1 if len(older) else 2):  # one stays free, for changes
            return False
        entry = self._table[free[0] : free[0] + 1]
        entry["kind"], entry["pid"], entry["started"] = kind, pid, start_time(pid)
        entry["name"], entry["epoch"] = key
        entry["owner"], entry["fenced"] = owner, max([fenced, *self._table["fenced"][older].tolist()])
        entry["pools"] = np.bitwise_or.reduce(self._table["pools"][older], initial=np.uint64(pools))
        entry["state"] = _state(entry[0])
        self._table["state"][older] = 0
        return True

    def _living(self, kind: int) -> list[np.void]:
        living = []
        for at in np.flatnonzero((self._table["state"] != 0) & (self._table["kind"] == kind)):
            entry = self._table[at]
            if entry["state"] != _state(entry):
                continue
            if start_time(int(entry["pid"])) == int(entry["started"]) != 0:
                living.append(entry)
            else:
                self._table["state"][at] = 0
        return living

    def _find(self, key: WriterKey) -> npt.NDArray[np.intp]:
        table = self._table
        return np.flatnonzero((table["state"] != 0) & (table["name"] == key[0]) & (table["epoch"] == key[1]))


def _key(entry: np.void) -> WriterKey:
    return int(entry["name"]), int(entry["epoch"])


def _state(entry: np.void) -> np.uint64:
    """What `state` must be for these fields; never 0, which is a free entry."""
    return np.uint64(1 << 32 | zlib.crc32(entry.tobytes()[8:]))


def start_time(pid: int) -> int:
    """Clock ticks between boot and the start of a process; 0 where there is none. With the pid it is unique."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
