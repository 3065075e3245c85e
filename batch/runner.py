"""Lines of batches in progress, as calls to the ingresses, and their answers into the database.

The key of a call is made of batch, line and attempt, so whatever dies between, the same call is made again and has the
answer that it had. Answers are written some at a time; a line counts as answered when they are.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from batch.core import state, verdict
from batch.core.desk import Desk, Ref, Taken
from batch.core.lines import Wrong, parse
from batch.core.state import Batch
from batch.core.verdict import Outcome
from batch.database import Database, Result
from batch.refusals import Refusal
from batch.vault import Vault
from bus.loop import Cancel, Loop
from bus.messages.batches import BatchUsage
from bus.messages.clients import Operation
from bus.messages.common import ProcessState
from bus.releases import Troubles
from bus.telemetry import Telemetry

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.02
FLUSH_LINES: Final = 64
WRITE_AGAIN_S: Final = 1.0  # after a write that failed
AHEAD: Final = 256  # lines of a batch that are known before they are sent
OPERATIONS: Final[dict[str, Operation]] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}
TROUBLE: Final = "batch results"


class Host(Protocol):
    """What must be known of the process that this is in."""

    @property
    def loop(self) -> Loop: ...
    @property
    def state(self) -> ProcessState: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def troubles(self) -> Troubles: ...

    def progressed(self, units: int = 1) -> None:
        """Useful work was done."""
        ...


class Calls(Protocol):
    """The way to the ingresses; `Ingresses` says what each does."""

    @property
    def up(self) -> int: ...
    def call(self, operation: Operation, body: bytes, once: str, behalf: str) -> int | None: ...
    def cancel(self, number: int) -> None: ...
    def forget(self, responses: Sequence[str]) -> None: ...
    def close(self) -> None: ...


class Connect(Protocol):
    """Opens it."""

    def __call__(
        self,
        *,
        on_answer: Callable[[int, Outcome], None],
        on_lost: Callable[[Sequence[int]], None],
        on_up: Callable[[], None],
    ) -> Calls: ...


class Runner:
    """Everything that is in progress.

    Args:
        connect: the way to the ingresses.
        limit_of: lines of a model in flight.
        most: lines in flight in all.
        on_finished: every line of a batch is written.
    """

    def __init__(
        self,
        life: Host,
        database: Database,
        vault: Vault,
        connect: Connect,
        *,
        limit_of: Callable[[str], int],
        most: int,
        on_finished: Callable[[Batch], None],
    ) -> None:
        self._life, self._database, self._vault = life, database, vault
        self._limit_of, self._on_finished = limit_of, on_finished
        self._desk = Desk(ahead=AHEAD, most=most)
        self._batches: dict[str, Batch] = {}
        self._calls: dict[int, Taken] = {}
        self._numbers: dict[Ref, int] = {}  # of the call that a line is in
        self._results: dict[str, list[Result]] = {}
        self._flushing: Cancel | None = None
        self._waiting: Cancel | None = None
        self._paused = False
        self._ingresses = connect(
            on_answer=self._answered, on_lost=self._lost, on_up=lambda: life.loop.soon(self._pump)
        )
        tell = life.telemetry.counter
        self._counters = {
            outcome: tell("headrace_batch_lines_total", "Lines of batches, by what came of a call for them.",
                          outcome=outcome)
            for outcome in ("completed", "failed", "again", "later", "lost")
        }  # fmt: skip

    @property
    def flying(self) -> int:
        """Lines that are being asked for."""
        return self._desk.flying

    @property
    def waiting(self) -> int:
        """Lines that are not answered, and not asked for yet."""
        counts = [batch.counts for batch in self._batches.values()]
        return sum(each.total - each.completed - each.failed for each in counts) - self.flying

    def open(self, batch: Batch) -> None:
        """A batch is in progress: ask for its lines that have no answer."""
        self._batches[batch.id] = batch
        self._desk.open(batch.id, batch.project, batch.model, self._limit_of(batch.model))
        self._pump()

    def close(self, batch: str) -> None:
        """It is not any more. What was answered is written, what is under way ends."""
        self._flush()
        for ref in self._desk.close(batch):
            if (number := self._numbers.pop(ref, None)) is not None:
                del self._calls[number]
                self._ingresses.cancel(number)
        self._batches.pop(batch, None)
        self._results.pop(batch, None)
        self._life.loop.soon(self._pump)

    def pause(self) -> None:
        """Send nothing new."""
        self._paused = True

    def go_on(self) -> None:
        """The opposite."""
        self._paused = False
        self._pump()

    def stop(self) -> None:
        """Write what there is, and leave."""
        self._flush()
        for cancel in (self._flushing, self._waiting):
            if cancel is not None:
                cancel()
        self._ingresses.close()

    # --- sending ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what may be sent."""
        if self._paused or self._life.state == "stopped":
            return None
        try:
            self._feed()
        except sqlite3.Error as error:
            return self._trouble(error)
        loop, desk = self._life.loop, self._desk
        while self._ingresses.up and (taken := desk.take(loop.now_ns())) is not None:
            if not self._send(taken):
                break
        if self._waiting is not None:
            self._waiting()
            self._waiting = None
        if (at_ns := desk.next_ns(loop.now_ns())) is not None:
            self._waiting = loop.after(max(0.01, (at_ns - loop.now_ns()) / 1e9), self._pump)
        return None

    def _feed(self) -> None:
        for batch, after, most in self._desk.hungry():
            lines = self._database.pending(batch, after, most)
            self._desk.feed(batch, lines, more=len(lines) == most)
        self._finish()

    def _send(self, taken: Taken) -> bool:
        """False where it was not possible; the line waits on."""
        batch = self._batches[taken.ref.batch]
        try:
            request = parse(self._vault.read(batch.input_file, taken.line.offset, taken.line.length))
        except (Wrong, OSError) as error:
            body = Refusal(500, f"The line cannot be read any more: {error}", code="file_damaged").body
            self._keep(taken, Outcome(400, body))
            return True
        attempt = f"#{taken.attempt}" if taken.attempt > 1 else ""
        number = self._ingresses.call(
            OPERATIONS[batch.endpoint], bytes(request.body), f"{batch.id}/{taken.ref.number}{attempt}", batch.key
        )
        if number is None:
            self._desk.lost(taken.ref)
            return False
        self._calls[number] = taken
        self._numbers[taken.ref] = number
        return True

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answered(self, number: int, outcome: Outcome) -> None:
        if (taken := self._calls.pop(number, None)) is None:
            return
        self._life.progressed()
        del self._numbers[taken.ref]
        self._keep(taken, outcome)
        self._pump()

    def _keep(self, taken: Taken, outcome: Outcome) -> None:
        ref = taken.ref
        match self._desk.answered(ref, outcome, self._life.loop.now_ns()):
            case "kept":
                request, _ = verdict.told(outcome.body)
                result = Result(ref.number, outcome.status, request, outcome.body)
                self._results.setdefault(ref.batch, []).append(result)
                if sum(map(len, self._results.values())) >= FLUSH_LINES:
                    self._flush()
                elif self._flushing is None:
                    self._flushing = self._life.loop.after(FLUSH_S, self._flush_now)
            case "again":
                self._counters["again"].add()
                try:
                    self._database.tried(ref.batch, ref.number, taken.attempt)
                except sqlite3.Error as error:  # then the attempt is made once more, should this process die
                    log.warning("an attempt of %s line %d is not noted: %s", ref.batch, ref.number, error)
            case "later":
                self._counters["later"].add()
            case None:
                pass

    def _lost(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if (taken := self._calls.pop(number, None)) is not None:
                del self._numbers[taken.ref]
                self._desk.lost(taken.ref)
                self._counters["lost"].add()
        self._life.loop.soon(self._pump)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _flush_now(self) -> None:
        self._flushing = None
        self._flush()
        self._pump()

    def _flush(self) -> None:
        """Write the answers that are here."""
        for name, results in tuple(self._results.items()):
            try:
                batch = self._database.record(self._batches[name], results, _counted)
            except sqlite3.Error as error:
                return self._trouble(error)
            before, self._batches[name] = self._batches[name].counts, batch
            self._counters["completed"].add(batch.counts.completed - before.completed)
            self._counters["failed"].add(batch.counts.failed - before.failed)
            del self._results[name]
            self._ingresses.forget([result.request for result in results if result.request])
            for result in results:
                self._desk.written(Ref(name, result.number))
        self._life.troubles.over(TROUBLE)
        self._finish()
        return None

    def _finish(self) -> None:
        for name in self._desk.finished():
            batch = self._batches.pop(name)
            self._desk.close(name)
            self._on_finished(batch)

    def _trouble(self, error: sqlite3.Error) -> None:
        """What is not written is kept, and stands in the way of more: the window is full of it."""
        problem = f"{self._database.path} cannot be used, so batches stand still: {error}"
        if self._life.troubles.say(TROUBLE, problem, self._life.loop.now_ns()):
            log.error("%s", problem)
        if self._flushing is None:
            self._flushing = self._life.loop.after(WRITE_AGAIN_S, self._flush_now)


def _counted(batch: Batch, results: Sequence[Result]) -> Batch:
    completed = 0
    for result in results:
        good = result.status == 200
        usage = verdict.told(result.body)[1] if good else BatchUsage()
        batch = state.counted(batch, int(good), int(not good), usage)
        completed += good
    return batch
