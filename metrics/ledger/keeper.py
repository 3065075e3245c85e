"""The thread that alone touches the ledger's file. The loop gives it batches and questions, and is called back.

What cannot be written waits here, one batch for each process that tells, and is tried again; a process that is not
answered keeps its records. So a full disk costs nothing but the records that its processes cannot keep any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bus.ceilings import cores
from bus.config import Config
from bus.loop import Loop
from bus.messages.usage import GetUsage, HostUsage, UsageRecord, UsageReply
from metrics.core.costs import rate_of
from metrics.ledger import queries
from metrics.ledger.database import Database

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0
WATCH_S: Final = 10.0
PRUNE_S: Final = 3600.0
MISSED_NS: Final = 60_000_000_000  # a metrics process that is back after so long has not missed anything
MAX_QUESTIONS: Final = 64
CLOSE_S: Final = 5.0

Done = Callable[[], object]
Answered = Callable[[UsageReply], object]


class _Batch(NamedTuple):
    records: Sequence[UsageRecord]
    done: Done


class Keeper:
    """The ledger, for the loop's thread.

    Args:
        state: the state directory.
        config: prices, and how long what is kept.

    Attributes:
        written: records that were new.
        problem: why nothing is written at present; empty where it is.
    """

    def __init__(self, loop: Loop, state: Path, config: Config) -> None:
        self._loop, self._state, self._config = loop, state, config
        self.written = 0
        self.problem = ""
        self._lock = threading.Condition()
        self._batches: dict[str, _Batch] = {}
        self._questions: deque[tuple[GetUsage, Answered]] = deque(maxlen=MAX_QUESTIONS)
        self._calls: deque[Done] = deque()
        self._closing = False
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._signal, self._call_back)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    # --- on the loop's thread --------------------------------------------------------------------------------------

    def write(self, source: str, records: Sequence[UsageRecord], done: Done) -> None:
        """Write a batch; `done` is called when it is on disk. It takes the place of one of the same source that
        waits: that one was told again."""
        with self._lock:
            self._batches[source] = _Batch(records, done)
            self._lock.notify()

    def ask(self, question: GetUsage, answered: Answered) -> None:
        """Answer a question, soon. Too many at once: the oldest are not answered."""
        with self._lock:
            self._questions.append((question, answered))
            self._lock.notify()

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return sum(len(batch.records) for batch in tuple(self._batches.values()))

    @property
    def bytes(self) -> int:
        """Of the file and its log."""
        paths = (self._state / name for name in ("usage.db", "usage.db-wal"))
        return sum(path.stat().st_size for path in paths if path.exists())

    def close(self) -> None:
        """Write what is here, and end."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join(CLOSE_S)
        self._loop.remove_reader(self._signal)
        self._call_back()
        os.close(self._signal)

    def _call_back(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        while self._calls:
            self._calls.popleft()()

    # --- on the ledger's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        book: _Book | None = None
        retry_at = 0.0
        while True:
            with self._lock:
                if not self._closing:
                    ready = self._questions or (self._batches and time.monotonic() >= retry_at)
                    if not ready:
                        self._lock.wait(RETRY_S)
                closing = self._closing
                batches, questions = dict(self._batches), tuple(self._questions)
                self._questions.clear()
            if time.monotonic() >= retry_at or closing:
                try:
                    book = book or _Book(self._state, self._config)
                    book.turn(closing=closing)
                    self._write(book, batches)
                    self._over()
                except (sqlite3.Error, OSError) as error:
                    self._trouble(error)
                    if book is not None:
                        book.close()
                    book = None
                    retry_at = time.monotonic() + RETRY_S
            for question, answered in questions:
                self._answer(book, question, answered)
            if closing:
                if book is not None:
                    book.close()
                return

    def _write(self, book: _Book, batches: dict[str, _Batch]) -> None:
        if not batches:
            return
        self.written += book.database.write(record for batch in batches.values() for record in batch.records)
        with self._lock:
            for source, batch in batches.items():
                if self._batches.get(source) is batch:
                    del self._batches[source]
        for batch in batches.values():
            self._later(batch.done)

    def _answer(self, book: _Book | None, question: GetUsage, answered: Answered) -> None:
        reply = no_ledger(question, self.problem)
        if book is not None:
            try:
                book.watch()
                reply = queries.answer(book.database, question, int(time.time()), self.problem)
            except sqlite3.Error as error:
                self._trouble(error)
        self._later(lambda: answered(reply))

    def _later(self, call: Done) -> None:
        self._calls.append(call)
        os.eventfd_write(self._signal, 1)

    def _trouble(self, error: Exception) -> None:
        problem = f"{self._state / 'usage.db'}: {getattr(error, 'strerror', None) or error}"
        if problem != self.problem:
            log.error("the usage ledger cannot be written; what requests use is kept until it can: %s", problem)
        self.problem = problem

    def _over(self) -> None:
        if self.problem:
            log.warning("the usage ledger is written again")
        self.problem = ""


def no_ledger(question: GetUsage, problem: str = "no ledger is kept ([usage] ledger = false)") -> UsageReply:
    """The answer where there is nothing to answer from."""
    nothing, now_s = queries.NOTHING, int(time.time())
    return UsageReply(question.rid, question.since_s, now_s, (), nothing, HostUsage(0, 0, 0, 0, 0), problem=problem)


class _Book:
    """The open file, and what has to be done to it from time to time."""

    def __init__(self, state: Path, config: Config) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._config = config
        self.database = Database(state, boot)
        self.database.set_rate(rate_of(config.cost, cores(), int(time.time())))
        now_ns, until_ns = time.time_ns(), self.database.watched_until_ns()
        missed_ns = now_ns - until_ns if 0 <= now_ns - until_ns <= MISSED_NS else 0
        self._watched_ns = time.monotonic_ns() - missed_ns
        self._prune_at = 0.0

    def watch(self) -> None:
        """Write down how long was watched until now."""
        passed_ns = time.monotonic_ns() - self._watched_ns
        self.database.watched(passed_ns, time.time_ns())
        self._watched_ns += passed_ns

    def turn(self, *, closing: bool) -> None:
        """What is due."""
        if closing or time.monotonic_ns() - self._watched_ns >= WATCH_S * 1e9:
            self.watch()
        if time.monotonic() >= self._prune_at and not closing:
            kept = self._config.usage
            more = self.database.prune(
                int(time.time()), requests_days=kept.keep_requests_days, hours_days=kept.keep_hours_days,
                days=kept.keep_days,
            )  # fmt: skip
            self._prune_at = time.monotonic() + (RETRY_S if more else PRUNE_S)

    def close(self) -> None:
        """What was not written is not."""
        self.database.close()
