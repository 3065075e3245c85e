"""The ledger's file: SQLite with a write-ahead log, one writer. Everything here may block, and runs on its thread.

A request is written once, whoever tells of it and how often: its id is the key, and the sums by hour and day change in
the same transaction, by what was new. So the sums are those of the requests, also after a crash in the middle.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bus.messages.usage import UsageRecord
from bus.sqlite import lock_alone, make_private, transaction
from metrics.core.costs import Rate

log = logging.getLogger(__name__)

FILE: Final = "usage.db"
HOUR: Final = 3600
DAY: Final = 86400
VERSION: Final = 4
FAILED: Final = frozenset({"error", "shutdown", "deadline"})
MOST: Final = 1 << 53  # nothing real is more, and what SQLite cannot hold would be tried for ever
PRUNED_AT_ONCE: Final = 5000  # rows of requests, so that no transaction is long

_SCHEMA: Final = """
CREATE TABLE requests (
    request INTEGER PRIMARY KEY, ended_ms INTEGER NOT NULL, model TEXT NOT NULL, tenant TEXT NOT NULL,
    key TEXT NOT NULL, outcome TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL, compute_ns INTEGER NOT NULL, prefill_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL, cost_nano INTEGER NOT NULL DEFAULT 0, call INTEGER NOT NULL DEFAULT 0,
    allowed INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX requests_by_time ON requests (ended_ms);
CREATE TABLE sums (
    grain INTEGER NOT NULL, begin INTEGER NOT NULL, model TEXT NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL,
    requests INTEGER NOT NULL, failed INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL, compute_ns INTEGER NOT NULL, prefill_ns INTEGER NOT NULL,
    cost_nano INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0, cached INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grain, begin, model, tenant, key)
) WITHOUT ROWID;
CREATE TABLE uptime (
    grain INTEGER NOT NULL, begin INTEGER NOT NULL, up_ns INTEGER NOT NULL, PRIMARY KEY (grain, begin)
) WITHOUT ROWID;
CREATE TABLE watched (boot TEXT PRIMARY KEY, until_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE rates (
    since_s INTEGER PRIMARY KEY, cores INTEGER NOT NULL, currency TEXT NOT NULL, price_per_hour REAL NOT NULL,
    price_per_kwh REAL NOT NULL, watts_idle REAL NOT NULL, watts_busy REAL NOT NULL
);
"""

# From version 1, whose rows have no price and are all of requests that were accepted and computed.
_FROM_1: Final = """
ALTER TABLE requests ADD COLUMN cost_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sums ADD COLUMN cost_nano INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sums ADD COLUMN rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sums ADD COLUMN cached INTEGER NOT NULL DEFAULT 0;
"""

# From version 2, in which samples of one call had nothing in common.
_FROM_2: Final = """
ALTER TABLE requests ADD COLUMN call INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN allowed INTEGER NOT NULL DEFAULT 0;
"""

# From version 3, which did not tell what was thought.
_FROM_3: Final = """
ALTER TABLE requests ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sums ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
"""

_SUMMED: Final = (
    "requests", "failed", "prompt_tokens", "cached_tokens", "generated_tokens", "compute_ns", "prefill_ns",
    "cost_nano", "rejected", "cached", "reasoning_tokens",
)  # fmt: skip
_INSERT: Final = f"INSERT OR IGNORE INTO requests VALUES ({', '.join('?' * 16)})"
_ADD: Final = (
    f"INSERT INTO sums VALUES ({', '.join('?' * 16)}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in _SUMMED)
)  # fmt: skip
_WATCH: Final = "INSERT INTO uptime VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET up_ns = up_ns + excluded.up_ns"


class LedgerTaken(OSError):
    """Another metrics process writes this ledger."""


class LedgerForeign(sqlite3.DatabaseError):
    """The file is of a release that this one cannot read."""


class Database:
    """The open ledger.

    Args:
        state: the state directory.
        boot: the kernel's id of this boot: what was watched before another one says nothing about the time since.

    Raises:
        LedgerTaken, LedgerForeign: see there.
        sqlite3.Error, OSError: it cannot be opened.
    """

    def __init__(self, state: Path, boot: str) -> None:
        self.path = state / FILE
        self._boot = boot
        self._lock = _take_lock(state / f"{FILE}.lock")
        try:
            self.connection = _open(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Nothing is lost by not calling it."""
        self.connection.close()
        os.close(self._lock)

    def write(self, records: Iterable[UsageRecord]) -> int:
        """Write what is new; on disk when this returns. Returns how many were."""
        sums: dict[tuple[int, int, str, str, str], list[int]] = {}
        new = 0
        with transaction(self.connection) as connection:
            for record in records:
                counts = tuple(
                    min(value, MOST)
                    for value in (
                        record.prompt_tokens, record.cached_tokens, record.generated_tokens, record.compute_ns,
                        record.prefill_ns, record.duration_ns, record.cost_nano, record.reasoning_tokens,
                    )
                )  # fmt: skip
                row = (
                    record.request, record.ended_ms, record.model, record.tenant, record.key, record.outcome,
                    *counts[:7], record.call, record.allowed, counts[7],
                )  # fmt: skip
                if not connection.execute(_INSERT, row).rowcount:
                    continue
                new += 1
                rejected, cached = record.outcome == "rejected", record.outcome == "cached"
                values = (
                    int(not rejected), int(record.outcome in FAILED), *counts[:5], counts[6], int(rejected),
                    int(cached), counts[7],
                )  # fmt: skip
                ended_s = record.ended_ms // 1000
                for grain in (HOUR, DAY):
                    key = (grain, ended_s - ended_s % grain, record.model, record.tenant, record.key)
                    known = sums.setdefault(key, [0] * len(values))
                    sums[key] = [left + right for left, right in zip(known, values, strict=True)]
            connection.executemany(_ADD, [(*key, *values) for key, values in sums.items()])
        return new

    def watched(self, up_ns: int, now_ns: int) -> None:
        """The host was watched for so long, until `now_ns` (Unix time). It counts for the hour and day of its end."""
        now_s = now_ns // 1_000_000_000
        with transaction(self.connection) as connection:
            connection.executemany(_WATCH, [(grain, now_s - now_s % grain, up_ns) for grain in (HOUR, DAY)])
            connection.execute("DELETE FROM watched WHERE boot <> ?", (self._boot,))
            connection.execute("INSERT OR REPLACE INTO watched VALUES (?, ?)", (self._boot, now_ns))

    def watched_until_ns(self) -> int:
        """Until when (Unix time), since the host started; 0 where it was not."""
        row = self.connection.execute("SELECT until_ns FROM watched WHERE boot = ?", (self._boot,)).fetchone()
        return int(row[0]) if row else 0

    def rates(self) -> list[Rate]:
        """In order of time."""
        return [Rate(*row) for row in self.connection.execute("SELECT * FROM rates ORDER BY since_s")]

    def set_rate(self, rate: Rate) -> None:
        """From now on these are the prices, where they are other ones than before."""
        known = self.rates()
        if known and known[-1]._replace(since_s=rate.since_s) == rate:
            return
        with transaction(self.connection) as connection:
            connection.execute(f"INSERT OR REPLACE INTO rates VALUES ({', '.join('?' * len(rate))})", rate)

    def prune(self, now_s: int, *, requests_days: int, hours_days: int, days: int) -> bool:
        """Forget what is older. True where there is more to forget than was forgotten now."""
        with transaction(self.connection) as connection:
            gone = connection.execute(
                "DELETE FROM requests WHERE request IN (SELECT request FROM requests WHERE ended_ms < ? LIMIT ?)",
                ((now_s - requests_days * DAY) * 1000, PRUNED_AT_ONCE),
            ).rowcount
            for grain, kept in ((HOUR, hours_days), (DAY, days)):
                for table in ("sums", "uptime"):
                    connection.execute(
                        f"DELETE FROM {table} WHERE grain = ? AND begin < ?", (grain, now_s - kept * DAY)
                    )
        return gone == PRUNED_AT_ONCE


def _take_lock(path: Path) -> int:
    try:
        return lock_alone(path)
    except BlockingIOError:
        raise LedgerTaken(
            None, f"another stack writes {path.parent / FILE}: give each its own HEADRACE_STATE"
        ) from None


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except LedgerForeign:
        raise
    except sqlite3.OperationalError:
        raise  # no room, no right: the file is not the matter
    except sqlite3.DatabaseError as error:
        aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
        log.error("%s is damaged (%s): kept as %s, a new one begins", path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    make_private(path)
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise LedgerForeign(f"{path} is of a newer release (version {version}): use that, or move the file away")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")
        if 1 <= version < VERSION:
            steps = "".join((_FROM_1, _FROM_2, _FROM_3)[version - 1 :])
            connection.executescript(f"BEGIN IMMEDIATE;{steps}PRAGMA user_version = {VERSION};COMMIT;")
        connection.execute("SELECT count(*) FROM rates").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
