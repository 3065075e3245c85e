"""The file of the accounts process: SQLite with a write-ahead log, one writer.

What ingresses are told stands in it before. What operators change is on the disk before they are answered; the rest is
safe from the death of this process, and after a power failure no ingress holds anything any more.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from accounts.core.book import Account, Book, Doubt, Hold, Holder, Level
from accounts.core.directory import Record, Register
from bus.messages.accounts import Allowance, Key, Project, Settlement
from bus.sqlite import NewerFile, lock_alone, make_private, prepare, roll_back, transaction

FILE: Final = "accounts.db"
VERSION: Final = 1
SETTLED_DAYS: Final = 7  # no ingress keeps what it has to tell for so long: its spool goes with a reboot
PRUNED_AT_ONCE: Final = 5000
_KINDS: Final[dict[str, type[Project] | type[Key] | type[Allowance]]] = {
    "project": Project, "key": Key, "allowance": Allowance,
}  # fmt: skip
_SCHEMA: Final = """
CREATE TABLE records (
    kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE levels (number INTEGER PRIMARY KEY, tokens INTEGER NOT NULL, at_ns INTEGER NOT NULL);
CREATE TABLE holds (
    number INTEGER NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL, granted INTEGER NOT NULL,
    used INTEGER NOT NULL, returned INTEGER NOT NULL, PRIMARY KEY (number, name, epoch)
) WITHOUT ROWID;
CREATE TABLE spent (
    number INTEGER NOT NULL, begin INTEGER NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (number, begin)
) WITHOUT ROWID;
CREATE TABLE doubts (number INTEGER NOT NULL, amount INTEGER NOT NULL, until_ns INTEGER NOT NULL);
CREATE INDEX doubts_by_number ON doubts (number);
CREATE TABLE settled (request INTEGER PRIMARY KEY, ended_ms INTEGER NOT NULL);
CREATE INDEX settled_by_time ON settled (ended_ms);
"""
_encode: Final = msgspec.msgpack.Encoder().encode


class Unusable(Exception):
    """The file cannot be used; the message says what to do."""


class Database:
    """The open file.

    Args:
        state: the state directory.
        boot: the kernel's id of this boot: clocks and leases of another one mean nothing.

    Raises:
        Unusable: see there.
        sqlite3.Error, OSError: it cannot be opened.
    """

    def __init__(self, state: Path, boot: str) -> None:
        self.path = state / FILE
        try:
            self._lock = lock_alone(state / f"{FILE}.lock")
        except BlockingIOError:
            raise Unusable(f"another stack writes {self.path}: give each its own HEADRACE_STATE") from None
        try:
            self._connection = _connect(self.path)
            self._begin(boot)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Nothing is lost by not calling it."""
        self._connection.close()
        os.close(self._lock)

    def load(self, register: Register, book: Book, now_ns: int) -> None:
        """Everything that there is."""
        read = self._connection.execute
        for kind, body in read("SELECT kind, body FROM records ORDER BY kind, name"):
            record = msgspec.msgpack.decode(body, type=_KINDS[kind])
            register.put(record)
            if isinstance(record, Allowance):
                book.put(record, now_ns)
        register.reserve_number(int(self._meta("number") or 0))
        accounts = book.accounts
        for number, tokens, at_ns in read("SELECT * FROM levels"):
            if number in accounts:
                accounts[number].level = Level(tokens, at_ns)
        for number, name, epoch, *totals in read("SELECT * FROM holds"):
            if (account := accounts.get(number)) is not None:
                hold = account.holds[Holder(name, epoch)] = Hold(*totals)
                account.held += hold.held
        for number, begin, amount in read("SELECT * FROM spent"):
            if number in accounts:
                accounts[number].spent[begin] = amount
        for number, amount, until_ns in read("SELECT * FROM doubts"):
            if number in accounts:
                accounts[number].doubts.append(Doubt(amount, until_ns))
        book.dirty.clear()

    def change(self, put: Iterable[Record], drop: Iterable[int], accounts: Iterable[Account]) -> None:
        """What an operator changed; on the disk when this returns."""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self._connection) as connection:
                for record in put:
                    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", _row(record))
                    if isinstance(record, Allowance):
                        self._set_meta("number", str(max(record.number, int(self._meta("number") or 0))))
                for number in drop:
                    connection.execute("DELETE FROM records WHERE kind = 'allowance' AND name = ?", (str(number),))
                    for table in ("levels", "holds", "spent", "doubts"):
                        connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
                self._write(connection, accounts)
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def save(self, accounts: Iterable[Account]) -> None:
        """How allowances stand."""
        with transaction(self._connection) as connection:
            self._write(connection, accounts)

    def settle(self, records: Iterable[Settlement]) -> list[Settlement]:
        """Begin to charge requests: those that are new. In a transaction that `charged` ends."""
        self._connection.execute("BEGIN IMMEDIATE")
        insert = "INSERT OR IGNORE INTO settled VALUES (?, ?)"
        return [
            record for record in records if self._connection.execute(insert, (record.request, record.ended_ms)).rowcount
        ]

    def charged(self, accounts: Iterable[Account]) -> None:
        """End what `settle` began."""
        self._write(self._connection, accounts)
        self._connection.execute("COMMIT")

    def give_up(self) -> None:
        """Take back a transaction that is open."""
        roll_back(self._connection)

    def prune(self, now_s: int) -> None:
        """Forget who was charged long ago."""
        with transaction(self._connection) as connection:
            connection.execute(
                "DELETE FROM settled WHERE request IN (SELECT request FROM settled WHERE ended_ms < ? LIMIT ?)",
                ((now_s - SETTLED_DAYS * 86400) * 1000, PRUNED_AT_ONCE),
            )

    def _write(self, connection: sqlite3.Connection, accounts: Iterable[Account]) -> None:
        for account in accounts:
            number = account.allowance.number
            connection.execute("INSERT OR REPLACE INTO levels VALUES (?, ?, ?)", (number, *account.level))
            connection.execute("DELETE FROM holds WHERE number = ?", (number,))
            connection.executemany(
                "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?)",
                [(number, *holder, *hold) for holder, hold in account.holds.items()],
            )
            if account.allowance.dimension == "money":
                connection.execute("DELETE FROM spent WHERE number = ?", (number,))
                connection.executemany(
                    "INSERT INTO spent VALUES (?, ?, ?)", [(number, *slot) for slot in account.spent.items()]
                )
                connection.execute("DELETE FROM doubts WHERE number = ?", (number,))
                connection.executemany(
                    "INSERT INTO doubts VALUES (?, ?, ?)", [(number, *doubt) for doubt in account.doubts]
                )

    def _begin(self, boot: str) -> None:
        if self._meta("boot") != boot:
            with transaction(self._connection) as connection:
                for table in ("levels", "holds", "doubts"):
                    connection.execute(f"DELETE FROM {table}")
                self._set_meta("boot", boot)

    def _meta(self, name: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _set_meta(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _row(record: Record) -> tuple[str, str, bytes]:
    match record:
        case Project():
            return "project", record.name, _encode(record)
        case Key():
            return "key", record.id, _encode(record)
        case Allowance():
            return "allowance", str(record.number), _encode(record)


def _connect(path: Path) -> sqlite3.Connection:
    make_private(path)
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
    try:
        prepare(connection, path, VERSION, _SCHEMA)
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Unusable(f"{path} is damaged ({found}): restore a copy, or move it away and make keys anew")
    except NewerFile as newer:
        connection.close()
        raise Unusable(str(newer)) from None
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Unusable(f"{path} is damaged ({error}): restore a copy, or move it away and make keys anew") from None
    except BaseException:
        connection.close()
        raise
    return connection
