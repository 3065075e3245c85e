"""The course of every batch: what it is at, what follows, and how it ends before its time.

What is to be done follows from a batch's state, which is written before it is acted on. So whoever begins anew does
what the database says, and comes to the same end.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from batch import stages
from batch.core import state
from batch.core.state import Batch
from batch.database import Database
from batch.runner import Connect, Host, Runner
from batch.vault import Vault
from bus.messages.batches import BatchError

log = logging.getLogger(__name__)

STAGE_AGAIN_S: Final = 5.0  # after a stage for which there was no room
TROUBLE: Final = "batch stages"


class Limits(NamedTuple):
    """What batches may have.

    Attributes:
        line_bytes, lines: of an input file.
        in_flight: lines of a model at once. all_in_flight: of all models.
        keep_s: that results are kept where nobody says how long.
    """

    line_bytes: int
    lines: int
    in_flight: Callable[[str], int]
    all_in_flight: int
    keep_s: int


class Course:
    """All batches that are not over.

    Args:
        connect: the way to the ingresses.
        now_s: Unix time.
    """

    def __init__(
        self,
        host: Host,
        database: Database,
        vault: Vault,
        limits: Limits,
        connect: Connect,
        now_s: Callable[[], int],
    ) -> None:
        self._host, self._database, self._vault = host, database, vault
        self._limits, self._now_s = limits, now_s
        self._open: dict[str, Batch] = {}  # as of its last change of state
        self._tasks: dict[str, asyncio.Task[None]] = {}  # stages, by batch
        self.runner = Runner(
            host, database, vault, connect, limit_of=limits.in_flight, most=limits.all_in_flight,
            on_finished=self._finished,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._open)

    def begin(self) -> None:
        """Go on where everything stands."""
        for batch in self._database.open_batches():
            self.advance(batch)

    def advance(self, batch: Batch) -> None:
        """Do what a batch's state asks for."""
        self._open[batch.id] = batch
        match batch.status:
            case "validating":
                self._stage(batch, self._check)
            case "in_progress":
                self.runner.open(batch)
            case "finalizing" | "cancelling":
                self._stage(batch, self._write)
            case _:
                del self._open[batch.id]

    def cancel(self, batch: Batch) -> Batch:
        """Somebody does not want the rest; the batch then.

        Raises:
            Impossible: it is too late.
        """
        if state.cancelled(batch, self._now_s()) is batch:
            return batch
        return self._end_early(batch.id, lambda latest: state.cancelled(latest, self._now_s()))

    def expire(self) -> None:
        """End those whose time is up."""
        now_s = self._now_s()
        for batch in tuple(self._open.values()):
            if batch.status in ("validating", "in_progress") and batch.expires_s <= now_s:
                try:
                    self._end_early(batch.id, lambda latest: state.expired(latest, now_s))
                except state.Impossible:
                    pass  # the last of its lines was answered just now
                except sqlite3.Error as error:
                    self._stand_still(batch.id, error)

    def stop(self) -> None:
        """Write what was answered, and leave the rest as it is."""
        for task in self._tasks.values():
            task.cancel()
        self.runner.stop()

    async def settled(self) -> None:
        """Return when no stage is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    def _finished(self, batch: Batch) -> None:
        """Every line is answered."""
        done = state.answered(batch, self._now_s())
        try:
            self._database.save(done)
        except sqlite3.Error as error:
            self._stand_still(batch.id, error)
            self._host.loop.after(STAGE_AGAIN_S, lambda: self._finished(batch))
            return
        log.info("%s is %s", done.id, done.status)
        self.advance(done)

    def _end_early(self, id: str, change: Callable[[Batch], Batch]) -> Batch:
        """Stop whatever a batch is at, and have it write what there is.

        Raises:
            Impossible: its last line was answered, and only not written yet.
        """
        self.runner.close(id)
        latest = self._database.batch(id)
        assert latest is not None, id
        now = change(latest)  # where that cannot be, whatever it is at goes on
        self._drop_task(id)
        if latest.status == "validating":
            self._database.forget_lines(id)  # half of them would be told of
        self._database.save(now)
        log.info("%s is %s", now.id, now.status)
        self.advance(now)
        return now

    # --- stages ----------------------------------------------------------------------------------------------------

    def _stage(self, batch: Batch, work: Callable[[Batch], Coroutine[Any, Any, Batch]]) -> None:
        self._drop_task(batch.id)
        self._tasks[batch.id] = asyncio.ensure_future(self._work(batch, work))

    def _drop_task(self, id: str) -> None:
        if (task := self._tasks.pop(id, None)) is not None:
            task.cancel()

    async def _work(self, batch: Batch, work: Callable[[Batch], Coroutine[Any, Any, Batch]]) -> None:
        while True:
            try:
                now = await work(batch)
                break
            except (OSError, sqlite3.Error) as error:
                self._stand_still(batch.id, error)
                await asyncio.sleep(STAGE_AGAIN_S)
        del self._tasks[batch.id]
        self._host.troubles.over(TROUBLE)
        log.info("%s is %s", now.id, now.status)
        self.advance(now)

    async def _check(self, batch: Batch) -> Batch:
        limits = self._limits
        try:
            now = await stages.check(
                batch, self._database, self._vault, longest=limits.line_bytes, most=limits.lines,
                now_s=self._now_s(),
            )  # fmt: skip
        except FileNotFoundError:
            gone = BatchError("file_not_found", "The input file is not there any more.", "input_file_id")
            now = state.invalid(batch, (gone,), self._now_s())
        self._database.save(now)
        return now

    async def _write(self, batch: Batch) -> Batch:
        now, files = await stages.write_results(
            batch, self._database, self._vault, keep_s=self._limits.keep_s, now_s=self._now_s()
        )
        self._database.end(now, files)
        return now

    def _stand_still(self, id: str, error: Exception) -> None:
        problem = f"{id} stands still: {error}"
        if self._host.troubles.say(TROUBLE, problem, self._host.loop.now_ns()):
            log.error("%s", problem)
