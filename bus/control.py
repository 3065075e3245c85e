"""The control door of a process: status, drain, stop, log level. What it cannot answer it asks the service."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from bus import logs
from bus.build import BUILD
from bus.messages.control import (
    Drain,
    FromProcess,
    GetStatus,
    Ok,
    Rejected,
    SetLogLevel,
    Status,
    Stop,
    ToProcess,
    Undrain,
)
from bus.names import CONTROL_DOOR
from bus.server import Peer, Server

if TYPE_CHECKING:
    from bus.process import Life

log = logging.getLogger(__name__)

_MAY_ASK = frozenset({"cli", "tui", "supervisor", "scheduler", "metrics"})


class ControlDoor:
    """Listens on `<name>.control.sock`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._server: Server[ToProcess] = Server(
            life, CONTROL_DOOR, "control", ToProcess, roles=_MAY_ASK, on_message=self._on_message
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _on_message(self, peer: Peer, message: ToProcess) -> None:
        if isinstance(message, GetStatus):
            self._server.send(peer, self._status(message.rid))
            return
        for_another = isinstance(message, Drain | Undrain) and message.name not in ("", self._life.name)
        if for_another or not isinstance(message, Drain | Undrain | Stop | SetLogLevel):
            answer: FromProcess | None = self._life.command(message)
        elif isinstance(message, Stop) and (own := self._life.command(message)) is not None:
            answer = own  # the supervisor stops more than itself
        else:
            log.info("%s asks: %s", peer.name, type(message).__name__.lower(), extra={"pid": peer.pid})
            answer = self._obey(message)
        rid = getattr(message, "rid", 0)
        self._server.send(peer, answer or Rejected(rid, f"{self._life.name} does not understand that command"))

    def _obey(self, message: Drain | Undrain | Stop | SetLogLevel) -> Ok:
        if isinstance(message, Drain):
            self._life.drain()
        elif isinstance(message, Undrain):
            self._life.undrain()
        elif isinstance(message, Stop):
            self._life.loop.soon(lambda: self._life.shut_down(message.deadline_s))
        else:
            logs.set_level(message.level)
        return Ok(message.rid, self._life.state)

    def _status(self, rid: int) -> Status:
        life, description = self._life, self._life.describe()
        return Status(
            rid, life.name, life.role, life.pid, life.state, life.epoch,
            (time.monotonic_ns() - life.started_ns) / 1e9, life.progress,
            description.load, description.detail, description.models, description.counters,
            BUILD, life.troubles.texts(life.loop.now_ns()), life.drained,
        )  # fmt: skip
