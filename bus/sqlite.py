"""What every database of a host does alike: a file of its owner's own, and transactions that end whole or not at all.

Connections are opened with `isolation_level=None`: transactions begin and end where it is written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def make_private(path: Path) -> None:
    """Make an empty file of its owner's own where there is none.

    One that is there is not opened: closing it would drop every lock that this process holds on it, and a database that
    is open relies on those (https://sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


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
