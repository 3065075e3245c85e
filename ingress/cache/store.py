"""The answers that the ingresses of a host share. Reads on the loop, writes on a thread of their own, both bounded.

One file for all and not a memory for each: with N processes on one port a client's next request is N-1 times in N at
another one, so memories of their own would hit a fraction as often and hold everything N times. A read costs some
10 µs more than a dictionary.

A file that turns out damaged is thrown away and a new one begun (`generations`). Without any file there is no cache and
everything else goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ingress.cache.database import Damaged, Database, Found, Kept, Observation, Turn
from ingress.cache.generations import Generations

log = logging.getLogger(__name__)

T = TypeVar("T")
Write = Callable[[Database], object]

BATCH_S: Final = 0.1  # writes wait so long for others
MAX_WAITING: Final = 4096  # writes
MAX_WAITING_BYTES: Final = 32 << 20
MAX_OBSERVATIONS: Final = 5000  # of a namespace
AGAIN_S: Final = 10.0  # a file that cannot be opened is tried again
CLOSE_S: Final = 2.0


def now_ms() -> int:
    """Unix time: what is kept outlives processes."""
    return time.time_ns() // 1_000_000


class Store:
    """The shared file, for one process.

    Args:
        directory: of the file; made where it is missing.
        max_bytes: of all answers.

    Attributes:
        path: of the file in use; None where there is none.
        dropped: writes that were too many.
        damaged: files that were thrown away by this process.
        problem: why nothing is cached at present; empty where it is.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._generations: Generations | None = None
        self._directory = directory
        self.dropped = self.damaged = 0
        self._reader: Database | None = None
        self.path: Path | None = None
        self._tried_at = -AGAIN_S
        self._epochs: dict[str, int] = {}
        self._condition = threading.Condition()
        self._writes: list[Write] = []
        self._fresh: dict[bytes, Kept] = {}  # that wait to be written
        self._used: set[bytes] = set()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._settling: list[threading.Event] = []
        self._waiting_bytes = 0
        self._closing = False
        self._complaint = ""
        self.problem = ""
        self._open()
        self._thread = threading.Thread(target=self._run, name="cache", daemon=True)
        self._thread.start()

    # --- on the loop -----------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Found | None:
        """What is kept under a key and may be served."""
        fresh = self._fresh.get(key)
        if fresh is not None and fresh.expires_ms > now_ms() and fresh.epoch == self.epoch(fresh.space):
            return Found(fresh.body, fresh.stored_ms)
        found = self._read(lambda database: database.get(key, now_ms()), None)
        if found is not None:
            with self._condition:
                self._used.add(key)
        return found

    def epoch(self, space: str) -> int:
        """Of a namespace: answers that are asked for now belong to it."""
        return self._read(lambda database: database.epoch(space), 0)

    def turns(self, part: bytes, after: int, most: int) -> list[tuple[int, Turn]]:
        """See `Database.turns`."""
        return self._read(lambda database: database.turns(part, after, most), [])

    def put(self, answer: Kept) -> None:
        """Keep an answer. This process serves it from now on, others within a moment."""
        if self.path is not None and self._write(lambda database: database.put((answer,)), len(answer.body)):
            self._fresh[answer.key] = answer

    def add_turn(self, turn: Turn) -> None:
        """Have an answer that is kept found by what its question means."""
        self._write(lambda database: database.add_turn(turn), len(turn.vector))

    def add_vector(self, key: bytes, vector: bytes) -> None:
        """See `Database.add_vector`."""
        self._write(lambda database: database.add_vector(key, vector), len(vector))

    def observe(self, seen: Observation) -> None:
        """A semantic hit was compared."""
        self._write(lambda database: database.observe((seen,), MAX_OBSERVATIONS), len(seen.asked))

    def forget(self, key: bytes) -> None:
        """Serve it no longer."""
        self._fresh.pop(key, None)
        self._write(lambda database: database.forget((key,)), 0)

    def forget_observations(self, space: str) -> None:
        """What was seen there counts no longer."""
        self._write(lambda database: database.forget_observations(space), 0)

    def count(self, space: str, what: str, more: int = 1) -> None:
        """Add to a count of a namespace. Counts are the host's, and outlive processes."""
        with self._condition:
            self._counts[space, what] += more

    def flush(self, space: str) -> int | None:
        """Serve nothing any more that is kept in a namespace; its new epoch, None where there is no file. At once, at
        every ingress."""
        if self.path is None:
            return None
        # The one write on the loop: an order of an operator, which is acknowledged when it holds.
        with contextlib.suppress(Damaged, sqlite3.OperationalError, OSError):
            database = Database(self.path, writes=True)
            try:
                with database.transaction():
                    return database.flush(space)
            finally:
                database.close()
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """All counts that are written, by namespace."""
        return self._read(lambda database: database.counts(), {})

    def entries(self) -> dict[str, tuple[int, int]]:
        """See `Database.entries`."""
        return self._read(lambda database: database.entries(), {})

    @property
    def held(self) -> int:
        """Of everything that is kept."""
        return self._read(lambda database: database.held, 0)

    def observations(self, space: str, limit: int) -> list[Observation]:
        """The newest first."""
        return self._read(lambda database: database.observations(space, limit), [])

    def tick(self) -> None:
        """About once a second: whether others have thrown the file away, and what is to be written."""
        if self._generations is not None:
            with contextlib.suppress(OSError):
                if self._generations.current() != self.path:
                    self._open()
        elif time.monotonic() - self._tried_at >= AGAIN_S:
            self._open()
        with self._condition:
            if self._used or self._counts:
                self._condition.notify()

    def settle(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything is written; for commands and tests, which have no loop to keep."""
        done = threading.Event()
        with self._condition:
            self._settling.append(done)
            self._condition.notify()
        return done.wait(timeout_s)

    def close(self) -> None:
        """Write what is here, and end."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(CLOSE_S)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self, damaged: Path | None = None) -> None:
        self._tried_at = time.monotonic()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self.path = None
        try:
            if self._generations is None:
                self._generations = Generations(self._directory)
            path = self._generations.next(damaged)
            try:
                self._reader = Database(path, writes=False)
            except Damaged as why:
                self._lost(path, why)
                path = self._generations.next(path)
                self._reader = Database(path, writes=False)
            self.path, self.problem = path, ""
        except (Damaged, sqlite3.Error, OSError) as error:
            self._generations = None
            self.problem = f"{self._directory}: {error}"
            self._complain(self.problem)

    def _read(self, ask: Callable[[Database], T], otherwise: T) -> T:
        if self._reader is None:
            return otherwise
        try:
            return ask(self._reader)
        except Damaged as why:
            path = self.path
            if path is not None:
                self._lost(path, why)
            self._open(path)
        except sqlite3.OperationalError as error:  # busy, for a moment
            log.debug("the cache cannot be read: %s", error)
        return otherwise

    def _lost(self, path: Path, why: Damaged) -> None:
        self.damaged += 1
        log.error("%s is damaged (%s): it is thrown away, the cache begins anew", path, why)

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            log.warning("answers are not cached: %s", why)

    def _write(self, write: Write, size: int) -> bool:
        with self._condition:
            if len(self._writes) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
                self.dropped += 1
                return False
            self._writes.append(write)
            self._waiting_bytes += size
            self._condition.notify()
        return True

    # --- on the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        database: Database | None = None
        opened: Path | None = None
        while True:
            with self._condition:
                while not (self._closing or self._writes or self._used or self._counts or self._settling):
                    self._condition.wait()
                closing = self._closing
            if not closing:
                time.sleep(BATCH_S)  # others come meanwhile
            with self._condition:
                writes, self._writes = self._writes, []
                settling, self._settling = self._settling, []
                fresh = tuple(self._fresh.items())
                used, self._used = self._used, set()
                counts, self._counts = self._counts, Counter()
                self._waiting_bytes = 0
                path = self.path
            if path is not None:
                if database is None or opened != path:
                    if database is not None:
                        database.close()
                    database, opened = _writer(path), path
                if database is not None:
                    self._batch(database, writes, used, counts)
            for key, answer in fresh:
                if self._fresh.get(key) is answer:
                    self._fresh.pop(key, None)
            for done in settling:
                done.set()
            if closing:
                break
        if database is not None:
            database.close()

    def _batch(
        self, database: Database, writes: list[Write], used: set[bytes], counts: Counter[tuple[str, str]]
    ) -> None:
        try:
            with database.transaction():
                for write in writes:
                    write(database)
                if used:
                    database.touch(used, now_ms())
                for (space, what), more in counts.items():
                    database.count(space, what, more)
                evicted = database.evict(self._max_bytes, now_ms())
                if evicted:
                    database.count("", "evicted", evicted)
        except (Damaged, sqlite3.Error) as error:
            # Whoever reads finds it damaged too, and begins anew; what was to be written is lost.
            self.dropped += len(writes)
            log.debug("the cache cannot be written: %s", error)


def _writer(path: Path) -> Database | None:
    if not os.path.exists(path):
        return None
    try:
        return Database(path, writes=True)
    except (Damaged, sqlite3.Error, OSError):
        return None
