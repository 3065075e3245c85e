"""The writer table in the arena: which processes may write pages. The next incarnation waits for their deaths."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kv.owners import Writer, WriterKey


class Living(NamedTuple):
    """A worker of the table whose process lives. Names are not in the arena, their hashes are."""

    pid: int
    key: WriterKey
    writer: Writer


class Witness:
    """Writes and reads the table.

    Args:
        table: `kv.layout.WRITER` records.
    """

    def __init__(self, table: npt.NDArray[np.void]) -> None:
        self._table = table

    def note(self, key: WriterKey, writer: Writer, pid: int) -> bool:
        """A worker may write from now on, or has fenced. False where the table is full: it must not write."""
        found = self._find(key)
        at = found if found.size else np.flatnonzero(self._table["used"] == 0)
        if not at.size:
            return False
        entry = self._table[at[0] : at[0] + 1]
        entry["pid"], entry["started"] = pid, start_time(pid)
        (entry["name"], entry["epoch"]), entry["owner"], entry["fenced"] = key, writer.owner, writer.fenced
        entry["used"] = 1
        return True

    def forget(self, key: WriterKey) -> None:
        """It is dead."""
        self._table["used"][self._find(key)] = 0

    def living(self) -> list[Living]:
        """Workers of the table that live; the others are forgotten."""
        living = []
        for at in np.flatnonzero(self._table["used"] != 0):
            entry = self._table[at]
            if start_time(int(entry["pid"])) == int(entry["started"]) != 0:
                key = (int(entry["name"]), int(entry["epoch"]))
                living.append(Living(int(entry["pid"]), key, Writer(int(entry["owner"]), int(entry["fenced"]))))
            else:
                self._table["used"][at] = 0
        return living

    def _find(self, key: WriterKey) -> npt.NDArray[np.intp]:
        table = self._table
        return np.flatnonzero((table["used"] != 0) & (table["name"] == key[0]) & (table["epoch"] == key[1]))


def start_time(pid: int) -> int:
    """Clock ticks between boot and the start of a process; 0 where there is none. With the pid it is unique."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
