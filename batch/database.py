"""The file of the batch process: SQLite with a write-ahead log, one writer.

Everything that is decided from is here, and what can be derived is not: a line is open while it has no result. That a
line has one result is the table's own key. What clients are told is on the disk before; an answer is safe from the
death of this process, and one that a power failure takes is asked for again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from batch.core.desk import Pending
from batch.core.lines import Line
from batch.core.state import OVER, Batch
from bus.sqlite import NewerFile, lock_alone, make_private, prepare, transaction

FILE: Final = "batch.db"
VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL, purpose TEXT NOT NULL,
    filename TEXT NOT NULL, bytes INTEGER NOT NULL, created_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL
);
CREATE INDEX files_by_project ON files (project, seq);
CREATE INDEX files_by_expiry ON files (expires_s);
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL, input_file TEXT NOT NULL,
    over_s INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX batches_by_project ON batches (project, seq);
CREATE INDEX batches_by_end ON batches (over_s);
CREATE TABLE lines (
    batch INTEGER NOT NULL, number INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    custom_id TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE TABLE results (
    batch INTEGER NOT NULL, number INTEGER NOT NULL, status INTEGER NOT NULL, request TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (batch, number)
);
"""
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Batch).decode


class Unusable(Exception):
    """The file cannot be used; the message says what to do."""


class StoredFile(NamedTuple):
    """A row of `files`. Times are Unix seconds; `expires_s` is never 0."""

    id: str
    project: str
    purpose: Literal["batch", "batch_output"]
    filename: str
    size: int
    created_s: int
    expires_s: int


class Result(NamedTuple):
    """What came of one line. `request` is the id of the answer, or empty."""

    number: int
    status: int
    request: str
    body: bytes


Counting = Callable[[Batch, Sequence[Result]], Batch]


class Written(NamedTuple):
    """A line as results tell it; `status` 0 is one without a result."""

    number: int
    custom_id: str
    status: int
    request: str
    body: bytes


class Page(NamedTuple):
    """What part of a list is wanted. `after` is an id, or empty."""

    after: str
    limit: int
    ascending: bool = False
    purpose: str = ""


class Database:
    """The open file.

    Args:
        state: the state directory.

    Raises:
        Unusable: see there.
        sqlite3.Error, OSError: it cannot be opened.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / FILE
        try:
            self._lock = lock_alone(state / f"{FILE}.lock")
        except BlockingIOError:
            raise Unusable(f"another stack writes {self.path}: give each its own HEADRACE_STATE") from None
        try:
            self._connection = _connect(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Nothing is lost by not calling it."""
        self._connection.close()
        os.close(self._lock)

    # --- files -----------------------------------------------------------------------------------------------------

    def file(self, id: str) -> StoredFile | None:
        """The file of an id."""
        row = self._connection.execute(f"SELECT {_FILE} FROM files WHERE id = ?", (id,)).fetchone()
        return None if row is None else StoredFile(*row)

    def files(self, project: str, page: Page) -> list[StoredFile]:
        """A page of a project's files, newest first unless it says otherwise."""
        purpose = "AND purpose = ?" if page.purpose else ""
        rows = self._page("files", _FILE, project, page, purpose, [page.purpose] if page.purpose else [])
        return [StoredFile(*row) for row in rows]

    def file_ids(self) -> Iterator[str]:
        """Of all."""
        return (row[0] for row in self._connection.execute("SELECT id FROM files"))

    def stored_bytes(self, project: str) -> int:
        """Of all files of a project."""
        row = self._connection.execute("SELECT COALESCE(SUM(bytes), 0) FROM files WHERE project = ?", (project,))
        return int(row.fetchone()[0])

    def add_file(self, file: StoredFile) -> None:
        """On the disk when this returns. One that is there stays as it is."""
        with self._durably() as connection:
            _insert_file(connection, file)

    def drop_files(self, ids: Iterable[str]) -> None:
        """They are no more."""
        with self._durably() as connection:
            connection.executemany("DELETE FROM files WHERE id = ?", [(id,) for id in ids])

    def in_use(self, file: str) -> bool:
        """Whether a batch that is not over reads it."""
        found = self._connection.execute(
            "SELECT 1 FROM batches WHERE input_file = ? AND over_s = 0 LIMIT 1", (file,)
        ).fetchone()
        return found is not None

    def expired_files(self, now_s: int, most: int) -> list[str]:
        """Ids of those whose time is up, and that no batch reads."""
        rows = self._connection.execute(
            "SELECT id FROM files f WHERE expires_s <= ? AND NOT EXISTS "
            "(SELECT 1 FROM batches b WHERE b.input_file = f.id AND b.over_s = 0) LIMIT ?",
            (now_s, most),
        )
        return [row[0] for row in rows]

    # --- batches ---------------------------------------------------------------------------------------------------

    def batch(self, id: str) -> Batch | None:
        """The batch of an id."""
        row = self._connection.execute("SELECT body FROM batches WHERE id = ?", (id,)).fetchone()
        return None if row is None else _decode(row[0])

    def batches(self, project: str, page: Page) -> list[Batch]:
        """A page of a project's batches, newest first."""
        return [_decode(row[0]) for row in self._page("batches", "body", project, page)]

    def open_batches(self) -> list[Batch]:
        """Those that are not over, oldest first."""
        rows = self._connection.execute("SELECT body FROM batches WHERE over_s = 0 ORDER BY seq")
        return [_decode(row[0]) for row in rows]

    def open_count(self, project: str) -> int:
        """Batches of a project that are not over."""
        found = self._connection.execute("SELECT COUNT(*) FROM batches WHERE project = ? AND over_s = 0", (project,))
        return int(found.fetchone()[0])

    def add_batch(self, batch: Batch) -> None:
        """On the disk when this returns. One that is there stays as it is."""
        with self._durably() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO batches (id, project, input_file, over_s, body) VALUES (?, ?, ?, 0, ?)",
                (batch.id, batch.project, batch.input_file, _encode(batch)),
            )

    def save(self, batch: Batch) -> None:
        """As it is now; on the disk when this returns."""
        with self._durably() as connection:
            _save(connection, batch)

    def end(self, batch: Batch, files: Iterable[StoredFile]) -> None:
        """A batch is over, and these are its results: from now on they are what there is of its lines."""
        assert batch.over, f"{batch.id} is {batch.status}"
        with self._durably() as connection:
            for file in files:
                _insert_file(connection, file)
            _save(connection, batch)
            _drop_lines(connection, batch.id)

    def prune(self, before_s: int, most: int) -> int:
        """Forget batches that were over before; how many."""
        with transaction(self._connection) as connection:
            return connection.execute(
                "DELETE FROM batches WHERE seq IN "
                "(SELECT seq FROM batches WHERE over_s > 0 AND over_s < ? LIMIT ?)", (before_s, most),
            ).rowcount  # fmt: skip

    # --- lines -----------------------------------------------------------------------------------------------------

    def forget_lines(self, batch: str) -> None:
        """Its file is read from the beginning."""
        with transaction(self._connection) as connection:
            _drop_lines(connection, batch)

    def add_lines(self, batch: str, lines: Iterable[Line]) -> None:
        """Some more of them."""
        with transaction(self._connection) as connection:
            seq = _seq(connection, batch)
            connection.executemany(
                "INSERT INTO lines (batch, number, offset, length, custom_id) VALUES (?, ?, ?, ?, ?)",
                [(seq, *line) for line in lines],
            )

    def pending(self, batch: str, after: int, most: int) -> list[Pending]:
        """Lines without a result, in order."""
        connection = self._connection
        rows = connection.execute(
            "SELECT number, offset, length, attempts FROM lines l WHERE batch = ?1 AND number > ?2 AND NOT EXISTS "
            "(SELECT 1 FROM results r WHERE r.batch = ?1 AND r.number = l.number) ORDER BY number LIMIT ?3",
            (_seq(connection, batch), after, most),
        )
        return [Pending(*row) for row in rows]

    def tried(self, batch: str, number: int, attempts: int) -> None:
        """So many attempts of a line have failed."""
        with transaction(self._connection) as connection:
            connection.execute(
                "UPDATE lines SET attempts = ? WHERE batch = ? AND number = ?",
                (attempts, _seq(connection, batch), number),
            )

    def record(self, batch: Batch, results: Iterable[Result], count: Counting) -> Batch:
        """Results of lines, and the batch with those counted that are new.

        Args:
            count: makes of a batch and its new results the batch that is written.
        """
        with transaction(self._connection) as connection:
            seq = _seq(connection, batch.id)
            insert = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)"
            new = [result for result in results if connection.execute(insert, (seq, *result)).rowcount]
            counted = count(batch, new)
            _save(connection, counted)
        return counted

    def written(self, batch: str) -> Iterator[Written]:
        """All lines in order, with what came of them. Reads from a connection of its own: a thread may ask."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10.0)
        with contextlib.closing(connection):
            rows = connection.execute(
                "SELECT l.number, l.custom_id, COALESCE(r.status, 0), COALESCE(r.request, ''), COALESCE(r.body, x'') "
                "FROM lines l LEFT JOIN results r ON r.batch = l.batch AND r.number = l.number "
                "WHERE l.batch = (SELECT seq FROM batches WHERE id = ?) ORDER BY l.number", (batch,),
            )  # fmt: skip
            for row in rows:
                yield Written(*row)

    # ---------------------------------------------------------------------------------------------------------------

    def _page(
        self, table: str, columns: str, project: str, page: Page, more: str = "", values: Iterable[str] = ()
    ) -> list[tuple[Any, ...]]:
        order, beyond = ("ASC", ">") if page.ascending else ("DESC", "<")
        given: list[object] = [project, *values]
        if page.after:
            more += f" AND seq {beyond} (SELECT seq FROM {table} WHERE id = ?)"
            given.append(page.after)
        found: list[tuple[Any, ...]] = self._connection.execute(
            f"SELECT {columns} FROM {table} WHERE project = ? {more} ORDER BY seq {order} LIMIT ?",
            (*given, page.limit),
        ).fetchall()
        return found

    @contextlib.contextmanager
    def _durably(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self._connection) as connection:
                yield connection
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")


_FILE: Final = "id, project, purpose, filename, bytes, created_s, expires_s"


def _seq(connection: sqlite3.Connection, batch: str) -> int:
    return int(connection.execute("SELECT seq FROM batches WHERE id = ?", (batch,)).fetchone()[0])


def _save(connection: sqlite3.Connection, batch: Batch) -> None:
    over_s = batch.times[batch.status] if batch.status in OVER else 0
    connection.execute("UPDATE batches SET body = ?, over_s = ? WHERE id = ?", (_encode(batch), over_s, batch.id))


def _insert_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(f"INSERT OR IGNORE INTO files ({_FILE}) VALUES (?, ?, ?, ?, ?, ?, ?)", file)


def _drop_lines(connection: sqlite3.Connection, batch: str) -> None:
    seq = _seq(connection, batch)
    for table in ("results", "lines"):
        connection.execute(f"DELETE FROM {table} WHERE batch = ?", (seq,))


def _connect(path: Path) -> sqlite3.Connection:
    make_private(path)
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
    damaged = "restore a copy, or move it away: batches and files in it are lost then"
    try:
        prepare(connection, path, VERSION, _SCHEMA)
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except NewerFile as newer:
        connection.close()
        raise Unusable(str(newer)) from None
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Unusable(f"{path} is damaged ({error}): {damaged}") from None
    except BaseException:
        connection.close()
        raise
    return connection
