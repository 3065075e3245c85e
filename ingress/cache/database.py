"""The tables of the shared file, and every statement on them. Everything here may block; who calls it decides where.

A read takes some microseconds, and waits for no writer (a write-ahead log). The file is in the run directory, which is
memory, so it waits for no disk either; nothing is ever synchronised. What SQLite does not check, the bytes of a row,
has a digest that is keyed with the row's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bus.sqlite import make_private

VERSION: Final = 1
EVICTED_AT_ONCE: Final = 256
OVERHEAD: Final = 256  # bytes of a row beside its body, indexes included

_SCHEMA: Final = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY, space TEXT NOT NULL, epoch INTEGER NOT NULL, stored_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL, sum BLOB NOT NULL
);
CREATE INDEX answers_by_use ON answers (used_ms);
CREATE INDEX answers_by_end ON answers (expires_ms);
CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT, part BLOB NOT NULL, key BLOB NOT NULL UNIQUE, text TEXT NOT NULL,
    gate BLOB NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX turns_by_part ON turns (part, id);
CREATE TRIGGER gone AFTER DELETE ON answers BEGIN
    UPDATE held SET bytes = bytes - old.size; DELETE FROM turns WHERE key = old.key;
END;
CREATE TRIGGER here AFTER INSERT ON answers BEGIN UPDATE held SET bytes = bytes + new.size; END;
CREATE TABLE held (bytes INTEGER NOT NULL);
INSERT INTO held VALUES (0);
CREATE TABLE spaces (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counts (
    space TEXT NOT NULL, what TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (space, what)
) WITHOUT ROWID;
CREATE TABLE observations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, at_ms INTEGER NOT NULL, kind TEXT NOT NULL,
    score REAL NOT NULL, similarity REAL NOT NULL, agree INTEGER NOT NULL, asked TEXT NOT NULL, known TEXT NOT NULL
);
CREATE INDEX observations_by_space ON observations (space, id);
"""

_GET: Final = """
SELECT body, sum, stored_ms FROM answers WHERE key = ? AND expires_ms > ?
AND epoch = coalesce((SELECT epoch FROM spaces WHERE name = answers.space), 0)
"""


class Found(NamedTuple):
    """What is kept under a key."""

    body: bytes
    stored_ms: int


class Kept(NamedTuple):
    """An answer to be kept. `epoch` is that of its namespace when it was asked for: a flush meanwhile counts."""

    key: bytes
    space: str
    epoch: int
    stored_ms: int
    expires_ms: int
    body: bytes


class Turn(NamedTuple):
    """The last turn of a conversation whose answer is kept: vectors as bytes (float16). `vector` is empty until a
    question has come near."""

    part: bytes
    key: bytes
    text: str
    gate: bytes
    vector: bytes


class Observation(NamedTuple):
    """A semantic hit that was generated all the same.

    Attributes:
        kind: "shadow" or "audit".
        agree: whether the answers were the same to whoever compared them.
        asked, known: the two questions.
    """

    space: str
    at_ms: int
    kind: str
    score: float
    similarity: float
    agree: bool
    asked: str
    known: str


class Damaged(Exception):
    """The file is not what it should be. Leave it for the next generation."""


def checksum(key: bytes, body: bytes) -> bytes:
    """Of a row."""
    return hashlib.blake2b(body, key=key, digest_size=8).digest()


class Database:
    """One connection.

    Raises:
        Damaged: it is no such file, also from every call.
        sqlite3.OperationalError: it cannot be opened, or is busy; also from every call.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        make_private(path)
        with _damage():
            # Made by one thread and used by another, never by two at a time.
            self._db = sqlite3.connect(
                path, timeout=2.0 if writes else 0.0, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA busy_timeout = 2000")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self.transaction():
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _statements(_SCHEMA):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise Damaged(f"it is of another release (version {version})")
        db.execute("SELECT bytes FROM held").fetchone()

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        with _damage():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # --- answers ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes, now_ms: int) -> Found | None:
        """What is kept under a key, of its namespace's present epoch.

        Raises:
            Damaged: also where the row is not what was written.
        """
        with _damage():
            row = self._db.execute(_GET, (key, now_ms)).fetchone()
        if row is None:
            return None
        if not isinstance(row[0], bytes) or checksum(key, row[0]) != row[1]:
            raise Damaged("a row is not what was written")
        return Found(row[0], row[2])

    def put(self, answers: Iterable[Kept]) -> None:
        """Within a transaction."""
        for one in answers:
            self._db.execute("DELETE FROM answers WHERE key = ?", (one.key,))
            self._db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    one.key, one.space, one.epoch, one.stored_ms, one.expires_ms, one.stored_ms,
                    len(one.body) + OVERHEAD, one.body, checksum(one.key, one.body),
                ),
            )  # fmt: skip

    def touch(self, keys: Iterable[bytes], now_ms: int) -> None:
        """These were used. Within a transaction."""
        self._db.executemany("UPDATE answers SET used_ms = ? WHERE key = ?", [(now_ms, key) for key in keys])

    def forget(self, keys: Iterable[bytes]) -> None:
        """Within a transaction."""
        self._db.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])

    def evict(self, max_bytes: int, now_ms: int) -> int:
        """Remove what is over, what was flushed, and the least recently used until there is room; how many that was.
        Within a transaction."""
        count = self._db.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE expires_ms <= ? LIMIT ?)",
            (now_ms, EVICTED_AT_ONCE),
        ).rowcount
        while self.held > max_bytes:
            gone = self._db.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY used_ms LIMIT 16)"
            ).rowcount
            if not gone:
                break
            count += gone
        return count

    @property
    def held(self) -> int:
        """Of all rows."""
        with _damage():
            return int(self._db.execute("SELECT bytes FROM held").fetchone()[0])

    def entries(self) -> dict[str, tuple[int, int]]:
        """How many answers of the present epoch each namespace has, and their bytes."""
        with _damage():
            rows = self._db.execute(
                "SELECT answers.space, count(*), sum(size) FROM answers "
                "LEFT JOIN spaces ON spaces.name = answers.space "
                "WHERE answers.epoch = coalesce(spaces.epoch, 0) GROUP BY answers.space"
            ).fetchall()
        return {name: (count, size) for name, count, size in rows}

    # --- namespaces ------------------------------------------------------------------------------------------------

    def epoch(self, space: str) -> int:
        """The present one."""
        with _damage():
            row = self._db.execute("SELECT epoch FROM spaces WHERE name = ?", (space,)).fetchone()
        return int(row[0]) if row else 0

    def flush(self, space: str) -> int:
        """Nothing that is kept in it is served any more; its new epoch. What is left of it goes as the least recently
        used. Within a transaction."""
        self._db.execute("INSERT INTO spaces VALUES (?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1", (space,))
        return self.epoch(space)

    def count(self, space: str, what: str, more: int) -> None:
        """Within a transaction."""
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (space, what, more),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """All counts, by namespace."""
        with _damage():
            rows = self._db.execute("SELECT space, what, value FROM counts").fetchall()
        found: dict[str, dict[str, int]] = {}
        for space, what, value in rows:
            found.setdefault(space, {})[what] = value
        return found

    # --- turns -----------------------------------------------------------------------------------------------------

    def add_turn(self, turn: Turn) -> None:
        """Within a transaction, after its answer."""
        self._db.execute(
            "INSERT OR REPLACE INTO turns (part, key, text, gate, vector) SELECT ?, ?, ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM answers WHERE key = ?)",
            (turn.part, turn.key, turn.text, turn.gate, turn.vector, turn.key),
        )
        self._grow(turn.key, len(turn.text.encode()) + len(turn.gate) + len(turn.vector) + OVERHEAD)

    def add_vector(self, key: bytes, vector: bytes) -> None:
        """The encoder's vector of a turn that has none. Within a transaction."""
        changed = self._db.execute("UPDATE turns SET vector = ? WHERE key = ? AND vector = x''", (vector, key))
        if changed.rowcount:
            self._grow(key, len(vector))

    def _grow(self, key: bytes, size: int) -> None:
        self._db.execute("UPDATE answers SET size = size + ? WHERE key = ?", (size, key))
        self._db.execute(
            "UPDATE held SET bytes = bytes + ? WHERE EXISTS (SELECT 1 FROM answers WHERE key = ?)", (size, key)
        )

    def turns(self, part: bytes, after: int, most: int) -> list[tuple[int, Turn]]:
        """The first of a part with an id above `after`, in order."""
        with _damage():
            rows = self._db.execute(
                "SELECT id, part, key, text, gate, vector FROM turns WHERE part = ? AND id > ? ORDER BY id LIMIT ?",
                (part, after, most),
            ).fetchall()
        return [(row[0], Turn(*row[1:])) for row in rows]

    # --- observations ----------------------------------------------------------------------------------------------

    def observe(self, seen: Iterable[Observation], most: int) -> None:
        """Write them down; of a namespace the newest `most` are kept. Within a transaction."""
        spaces = set()
        for one in seen:
            self._db.execute(
                "INSERT INTO observations (space, at_ms, kind, score, similarity, agree, asked, known) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                one,
            )
            spaces.add(one.space)
        for space in spaces:
            self._db.execute(
                "DELETE FROM observations WHERE space = ? AND id <= (SELECT id FROM observations WHERE space = ? "
                "ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (space, space, most),
            )

    def observations(self, space: str, limit: int) -> list[Observation]:
        """The newest first."""
        with _damage():
            rows = self._db.execute(
                "SELECT space, at_ms, kind, score, similarity, agree, asked, known FROM observations WHERE space = ? "
                "ORDER BY id DESC LIMIT ?",
                (space, limit),
            ).fetchall()
        return [Observation(*row)._replace(agree=bool(row[5])) for row in rows]

    def forget_observations(self, space: str) -> None:
        """Within a transaction."""
        self._db.execute("DELETE FROM observations WHERE space = ?", (space,))


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        # A file that was written over from outside shows as one of these; busy and full are not its fault.
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CANTOPEN):
            raise Damaged(f"{error}") from None
        raise
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{error}") from None


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
