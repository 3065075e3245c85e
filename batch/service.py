"""The life of the batch process: its door, and its clock."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from batch.course import Course, Limits
from batch.database import Database, Unusable
from batch.ingresses import Ingresses
from batch.refusals import Refusal
from batch.requests import DAY_S, Bounds, Requests
from batch.vault import Vault
from bus.config import Config, parse_size
from bus.messages.batches import Answered, Ask, Complete, Discard, Part, Read, ToBatch
from bus.messages.control import Answer, ToProcess
from bus.names import BATCHES_DOOR, ingress_name, state_directory
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life
from bus.server import Peer, Server

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0  # whether a batch has expired
TIDY_S: Final = 60.0
TIDIED_AT_ONCE: Final = 500
UPLOAD_S: Final = 3600.0  # that an upload may stand still
OTHER_LIMIT: Final = 8  # lines in flight for what is no configured model


class BatchService:
    """Files and batches."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._answering: set[asyncio.Task[None]] = set()
        self._database: Database | None = None
        self._course: Course | None = None
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
        limits = Limits(
            parse_size(config.ingress.max_body), settings.max_lines, partial(in_flight, config),
            max(1, config.ingress.max_streams * config.ingress.processes // 4), bounds.keep_s,
        )  # fmt: skip
        names = [ingress_name(index) for index in range(config.ingress.processes)]
        self._course = Course(life, self._database, self._vault, limits, partial(Ingresses, life, names), _now_s)
        self._requests = Requests(
            self._database, self._vault, bounds, _now_s, on_new=self._course.advance, on_cancel=self._course.cancel
        )
        self._course.begin()
        self._server = Server(life, BATCHES_DOOR, "batches", ToBatch, roles=("ingress",), on_message=self._hear)
        loop = life.loop
        self._cancels = [loop.every(LOOK_S, self._look), loop.every(TIDY_S, self._tidy)]
        life.telemetry.views.append(self._gauges)
        life.ready()

    def describe(self) -> Description:
        """For `headrace status`."""
        if self._course is None:
            return Description(detail="opening files")
        flying, waiting = self._course.runner.flying, self._course.runner.waiting
        detail = f"{len(self._course)} batches under way; lines: {flying} in flight, {waiting} waiting"
        return Description(
            detail=detail,
            counters=(("batches", len(self._course)), ("lines_in_flight", flying), ("lines_waiting", waiting)),
        )

    def drain(self) -> None:
        """Ask for no more lines. Those under way can be left: whoever comes next finds their answers."""
        if self._course is not None:
            self._course.runner.pause()

    def undrain(self) -> None:
        """Ask for lines again."""
        if self._course is not None:
            self._course.runner.go_on()

    def drained(self) -> bool:
        """Whether everybody who asked is answered."""
        return not self._answering

    def hand_over(self) -> None:
        """Nothing to do: what is under way is begun again by whoever comes next."""

    def stop(self) -> None:
        """Write what there is, and close."""
        for cancel in self._cancels:
            cancel()
        if self._server is not None:
            self._server.close()
        if self._course is not None:
            self._course.stop()
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

    # --- the clock -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        assert self._course is not None
        self._course.expire()

    def _tidy(self) -> None:
        assert self._database is not None
        now_s = _now_s()
        try:
            if gone := self._database.expired_files(now_s, TIDIED_AT_ONCE):
                self._database.drop_files(gone)
                self._vault.drop(gone)
            self._database.prune(now_s - self._life.config.batch.keep_days * DAY_S, TIDIED_AT_ONCE)
            self._vault.sweep_uploads(now_s - UPLOAD_S)
        except (sqlite3.Error, OSError) as error:
            log.warning("what has expired stays: %s", error)

    def _gauges(self) -> None:
        """How it stands, for the metrics process; nothing beyond the instruments."""
        course, gauge = self._course, self._life.telemetry.gauge
        if course is not None:
            told = "Lines of batches in progress that have no answer yet."
            gauge("headrace_batch_open_lines", told, state="in_flight").set(course.runner.flying)
            gauge("headrace_batch_open_lines", told, state="waiting").set(course.runner.waiting)
            gauge("headrace_batch_batches", "Batches that are not over.").set(len(course))


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
