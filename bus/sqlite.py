"""What every database of a host does alike: a file of its owner's own, and transactions that end whole or not at all.

Connections are opened with `isolation_level=None`: transactions begin and end where it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


class NewerFile(ValueError):
    """A later release wrote the file. The message says what to do."""


def make_private(path: Path) -> None:
    """Make an empty file of its owner's own where there is none.

    One that is there is not opened: closing it would drop every lock that this process holds on it, and a database that
    is open relies on those (https://sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def prepare(connection: sqlite3.Connection, path: Path, version: int, schema: str) -> None:
    """Have a file of the newest version: make its tables where it is empty.

    Raises:
        NewerFile: a later release wrote it.
        sqlite3.Error: it is damaged, or there is no room.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > version:
        raise NewerFile(f"{path} is of a newer release (version {found}): use that, or move the file away")
    if found == 0:
        connection.executescript(f"BEGIN IMMEDIATE;{schema}PRAGMA user_version = {version};COMMIT;")


def lock_alone(path: Path) -> int:
    """A descriptor of a lock file that is ours as long as it is open.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: it cannot be made.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One that writes, from its beginning; taken back where its body raises.

    Raises:
        sqlite3.Error: somebody else writes, or there is no room.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """Take back what is open; where that fails too, the next that opens the file does it."""
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
