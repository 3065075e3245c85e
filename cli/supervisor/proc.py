"""Processes as the kernel shows them: is it the one we mean, and which memory does it hold. Linux's /proc only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ARENA_NAME: Final = "headrace-arena"


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with the pid it names one process for ever. 0: it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The second field is the command in parentheses, which may itself hold spaces and parentheses.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    return 0 if state == "Z" else int(fields[18])


def is_stopped(pid: int) -> bool:
    """Whether it stands still by a signal (SIGSTOP); one that is being traced does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] == "T"


def runs_as(pid: int, name: str) -> bool:
    """Whether the command line of a process names `name` as one of its arguments."""
    try:
        return name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def recover_arena(pids: Iterable[int], inode: int) -> int | None:
    """Open the arena that one of these processes still holds.

    Args:
        inode: of the memfd that is meant; memfds of one name are many.

    Returns:
        A descriptor of the same memory, or None where nobody has it.
    """
    for pid in pids:
        for directory in ("fd", "map_files"):  # whoever closed its descriptor may still have it mapped
            fd = _open_memfd(Path(f"/proc/{pid}/{directory}"), inode)
            if fd is not None:
                return fd
    return None


def _open_memfd(directory: Path, inode: int) -> int | None:
    try:
        entries = list(directory.iterdir())
    except OSError:
        return None
    for entry in entries:
        try:
            # Following the link opens the memory anew: own offset and flags, same pages and seals.
            if os.readlink(entry).startswith(f"/memfd:{ARENA_NAME}") and entry.stat().st_ino == inode:
                return os.open(entry, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
    return None
