"""The life of the batch process: its door, its clock, and which stage each batch is in."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from batch import stages
from batch.core import state
from batch.core.state import Batch
from batch.database import Database, Unusable
from batch.refusals import Refusal
from batch.requests import DAY_S, Bounds, Requests
from batch.runner import Runner
from batch.vault import Vault
from bus.config import Config, parse_size
from bus.messages.batches import Answered, Ask, BatchError, Complete, Discard, Part, Read, ToBatch
from bus.messages.control import Answer, ToProcess
from bus.names import BATCHES_DOOR, ingress_name, state_directory
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life
from bus.server import Peer, Server

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # whether a batch has expired
TIDY_S: Final = 60.0
TIDIED_AT_ONCE: Final = 500
UPLOAD_S: Final = 3600.0  # that an upload may stand still
STAGE_AGAIN_S: Final = 5.0  # after a stage for which there was no room
OTHER_LIMIT: Final = 8  # lines in flight for what is no configured model
_TROUBLE: Final = "batch stages"


class BatchService:
    """Files and batches."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._open: dict[str, Batch] = {}  # as of its last change of state
        self._tasks: dict[str, asyncio.Task[None]] = {}  # stages, by batch
        self._answering: set[asyncio.Task[None]] = set()
        self._database: Database | None = None
        self._runner: Runner | None = None
        self._server: Server[Any] | None = None
        self._cancels: list[Callable[[], None]] = []

    def start(self) -> None:
        """Open what there is, go on where it stands, open the door."""
        life, config = self._life, self._life.config
        try:
            self._database = Database(state_directory())
            self._vault = Vault(state_directory())
            self._vault.sweep(frozenset(self._database.file_ids()), time.time() - UPLOAD_S)
        except Unusable as error:
            life.fail(str(error), EXIT_CONFIG)
            return
        except (sqlite3.Error, OSError) as error:
            life.fail(f"{state_directory()}: {error}", EXIT_MISSING)
            return
        settings = config.batch
        bounds = Bounds(
            parse_size(settings.max_file), parse_size(settings.project_files), settings.project_batches,
            settings.keep_days * DAY_S,
        )  # fmt: skip
        self._keep_s = bounds.keep_s
        self._requests = Requests(
            self._database, self._vault, bounds, _now_s, on_new=self._advance, on_cancel=self._cancel
        )
        self._runner = Runner(
            life, self._database, self._vault, [ingress_name(index) for index in range(config.ingress.processes)],
            limit_of=lambda model: in_flight(config, model),
            most=max(1, config.ingress.max_streams * config.ingress.processes // 4),
            on_finished=lambda batch: self._move(state.answered(batch, _now_s())),
        )  # fmt: skip
        for batch in self._database.open_batches():
            self._advance(batch)
        self._server = Server(life, BATCHES_DOOR, "batches", ToBatch, roles=("ingress",), on_message=self._hear)
        loop = life.loop
        self._cancels = [loop.every(LOOK_S, self._look), loop.every(TIDY_S, self._tidy)]
        life.telemetry.views.append(self._gauges)
        life.ready()

    def describe(self) -> Description:
        """For `headrace status`."""
        if self._runner is None:
            return Description(detail="opening files")
        flying, waiting = self._runner.flying, self._runner.waiting
        detail = f"{len(self._open)} batches under way; lines: {flying} in flight, {waiting} waiting"
        return Description(
            detail=detail,
            counters=(("batches", len(self._open)), ("lines_in_flight", flying), ("lines_waiting", waiting)),
        )

    def drain(self) -> None:
        """Ask for no more lines. Those under way can be left: whoever comes next finds their answers."""
        if self._runner is not None:
            self._runner.pause()

    def undrain(self) -> None:
        """Ask for lines again."""
        if self._runner is not None:
            self._runner.go_on()

    def drained(self) -> bool:
        """Whether everybody who asked is answered."""
        return not self._answering

    def hand_over(self) -> None:
        """Nothing to do: what is under way is begun again by whoever comes next."""

    def stop(self) -> None:
        """Write what there is, and close."""
        for cancel in self._cancels:
            cancel()
        for task in self._tasks.values():
            task.cancel()
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            self._runner.stop()
        if self._database is not None:
            self._database.close()

    def control(self, message: ToProcess) -> Answer | None:  # noqa: ARG002 (the service's interface)
        """There are no orders beyond the common ones."""
        return None

    # --- ingresses -------------------------------------------------------------------------------------------------

    def _hear(self, peer: Peer, message: Ask | Part | Complete | Discard | Read) -> None:
        self._life.progressed()
        if isinstance(message, Discard):
            self._requests.discard(message.upload)
            return
        if isinstance(message, Complete):
            task = asyncio.ensure_future(self._complete(peer, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        server = self._server
        assert server is not None
        try:
            match message:
                case Ask():
                    server.send(peer, Answered(message.rid, 200, self._requests.answer(message)))
                case Part():
                    server.send(peer, self._requests.take(message))
                case Read():
                    server.send(peer, self._requests.read(message))
        except Refusal as refusal:
            server.send(peer, _refused(message.rid, refusal))

    async def _complete(self, peer: Peer, message: Complete) -> None:
        assert self._server is not None
        try:
            answer = Answered(message.rid, 200, await self._requests.complete(message))
        except Refusal as refusal:
            answer = _refused(message.rid, refusal)
        self._server.send(peer, answer)

    # --- stages ----------------------------------------------------------------------------------------------------

    def _advance(self, batch: Batch) -> None:
        """Do what a batch's state asks for."""
        assert self._runner is not None
        self._open[batch.id] = batch
        match batch.status:
            case "validating":
                self._stage(batch, self._check)
            case "in_progress":
                self._runner.open(batch)
            case "finalizing" | "cancelling":
                self._stage(batch, self._write)
            case _:
                del self._open[batch.id]

    def _move(self, batch: Batch) -> None:
        """A batch is in another state."""
        assert self._database is not None
        try:
            self._database.save(batch)
        except sqlite3.Error as error:
            self._stand_still(batch, error)
            return
        log.info("%s is %s", batch.id, batch.status)
        self._advance(batch)

    def _cancel(self, batch: Batch) -> Batch:
        """Somebody does not want the rest.

        Raises:
            Impossible: it is too late.
        """
        now = state.cancelled(batch, _now_s())
        if now is not batch:
            now = self._end_early(batch.id, lambda latest: state.cancelled(latest, _now_s()))
        return now

    def _end_early(self, id: str, change: Callable[[Batch], Batch]) -> Batch:
        """Stop whatever a batch is at, and have it write what there is."""
        assert self._runner is not None
        assert self._database is not None
        self._drop_task(id)
        self._runner.close(id)
        latest = self._database.batch(id)
        assert latest is not None
        if latest.status == "validating":
            self._database.forget_lines(id)  # half of them would be told of
        now = change(latest)
        self._database.save(now)
        log.info("%s is %s", now.id, now.status)
        self._advance(now)
        return now

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
                self._stand_still(batch, error)
                await asyncio.sleep(STAGE_AGAIN_S)
        self._tasks.pop(batch.id, None)
        self._life.troubles.over(_TROUBLE)
        log.info("%s is %s", now.id, now.status)
        self._advance(now)

    async def _check(self, batch: Batch) -> Batch:
        assert self._database is not None
        config = self._life.config
        try:
            now = await stages.check(
                batch, self._database, self._vault, longest=parse_size(config.ingress.max_body),
                most=config.batch.max_lines, now_s=_now_s(),
            )  # fmt: skip
        except FileNotFoundError:
            problem = Refusal(404, "The input file is not there any more.", code="file_not_found")
            now = state.invalid(batch, (BatchError(problem.code, problem.message, "input_file_id"),), _now_s())
        self._database.save(now)
        return now

    async def _write(self, batch: Batch) -> Batch:
        assert self._database is not None
        now, files = await stages.write_results(batch, self._database, self._vault, keep_s=self._keep_s, now_s=_now_s())
        self._database.end(now, files)
        return now

    def _stand_still(self, batch: Batch, error: Exception) -> None:
        problem = f"{batch.id} stands still: {error}"
        if self._life.troubles.say(_TROUBLE, problem, self._life.loop.now_ns()):
            log.error("%s", problem)

    # --- the clock -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        now_s = _now_s()
        for batch in tuple(self._open.values()):
            if batch.status in ("validating", "in_progress") and batch.expires_s <= now_s:
                try:
                    self._end_early(batch.id, lambda latest: state.expired(latest, now_s))
                except sqlite3.Error as error:
                    self._stand_still(batch, error)

    def _tidy(self) -> None:
        assert self._database is not None
        now_s = _now_s()
        try:
            if gone := self._database.expired_files(now_s, TIDIED_AT_ONCE):
                self._database.drop_files(gone)
                self._vault.drop(gone)
            self._database.prune(now_s - self._keep_s, TIDIED_AT_ONCE)
            self._vault.sweep_uploads(now_s - UPLOAD_S)
        except (sqlite3.Error, OSError) as error:
            log.warning("what has expired stays: %s", error)

    def _gauges(self) -> None:
        """How it stands, for the metrics process; nothing beyond the instruments."""
        runner, gauge = self._runner, self._life.telemetry.gauge
        if runner is not None:
            told = "Lines of batches in progress that have no answer yet."
            gauge("headrace_batch_lines", told, state="in_flight").set(runner.flying)
            gauge("headrace_batch_lines", told, state="waiting").set(runner.waiting)
        gauge("headrace_batch_batches", "Batches that are not over.").set(len(self._open))


def in_flight(config: Config, model: str) -> int:
    """Lines of a model that are asked for at once: enough to fill its slots, and some that wait for one."""
    if config.batch.in_flight:
        return config.batch.in_flight
    slots = next((each.slots * each.all_replicas for each in config.model if each.name == model), 0)
    return slots + max(1, slots // 8) if slots else OTHER_LIMIT


def _refused(rid: int, refusal: Refusal) -> Answered:
    return Answered(rid, refusal.status, refusal.body, refusal.retry_after_s)


def _now_s() -> int:
    return int(time.time())
