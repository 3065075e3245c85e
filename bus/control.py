"""The control door of a process: status, drain, stop, log level. What it cannot answer it asks the service.

Here it is decided who may look and who may act, and what was done is written into the audit log.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from bus import logs
from bus.actionlog import LONGEST_TEXT, ActionLog, ActionRecord
from bus.actionreading import ActionReading
from bus.build import BUILD
from bus.credentials import Credentials, Doorkeeper
from bus.messages.adapters import GetAdapters
from bus.messages.caching import GetCache
from bus.messages.control import (
    Access,
    Acknowledge,
    Answer,
    Drain,
    GetAccess,
    GetAccounts,
    GetActions,
    GetFleet,
    GetLimits,
    GetNotes,
    GetStatus,
    Ok,
    Rejected,
    SetLogLevel,
    Silence,
    Status,
    Stop,
    ToProcess,
    TryGuards,
    Undrain,
    Witness,
)
from bus.names import CONTROL_DOOR, VISITORS
from bus.orders import Firsts, Order, reason_of, subject, verb, wording
from bus.server import Peer, Server

if TYPE_CHECKING:
    from bus.process import Life

log = logging.getLogger(__name__)

_MAY_ASK = frozenset({"cli", "tui", "supervisor", "scheduler", "metrics"})
_LOOKS = GetStatus | GetFleet | GetLimits | GetNotes | GetAccess | GetCache | TryGuards | GetAccounts | GetAdapters
OPEN_MODE: Final = 0o666  # whoever may enter the run directory may knock; `Doorkeeper` decides
DENIALS: Final = 10  # in a row that are written; then one a second, so that nobody can push others out of the log


class ControlDoor:
    """Listens on `<name>.control.sock`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._keeper = Doorkeeper(life.config.admin)
        self._actions = ActionLog(life.name)
        self._reading = ActionReading(life.loop)
        self._firsts = Firsts()
        self._denials, self._denied_at_s, self._missed = 0, 0.0, 0
        self._server: Server[ToProcess] = Server(
            life, CONTROL_DOOR, "control", ToProcess, roles=_MAY_ASK, on_message=self._on_message,
            admit=self._keeper.admit, mode=OPEN_MODE,
        )  # fmt: skip

    def close(self) -> None:
        """Stop listening."""
        self._reading.close()
        self._server.close()
        self._actions.close()

    def _on_message(self, peer: Peer, message: ToProcess) -> None:
        rid = getattr(message, "rid", 0)
        who = peer.credentials
        assert who is not None  # nobody comes here over tcp
        if isinstance(message, GetStatus):
            self._server.send(peer, self._status(rid))
            return
        if isinstance(message, GetAccess):
            role = "admin" if self._keeper.access(who) == "admin" else "viewer"
            self._server.send(peer, Access(rid, role, who.user, self._keeper.who_may_act()))  # type: ignore[arg-type]
            return
        if isinstance(message, GetActions):
            self._reading.ask(message, lambda answer: self._server.send(peer, answer))
            return
        if not isinstance(message, _LOOKS) and self._keeper.access(who) != "admin":
            denied = Rejected(rid, f"{who.user} may look and not act: {self._keeper.who_may_act()} may")
            answer: Answer = denied
            if isinstance(message, Order):
                self._denied(peer, who, message, denied)
        elif isinstance(message, Order) and peer.role in VISITORS:
            answer = self._carry_out(peer, who, message)
        else:
            answer = self._obey(message, rid)
        self._server.send(peer, answer)

    # --- orders of operators ---------------------------------------------------------------------------------------

    def _carry_out(self, peer: Peer, who: Credentials, order: Order) -> Ok | Rejected:
        """Do it, write it down, say who did it before."""
        now_s = time.monotonic()
        earlier = self._firsts.earlier(order, self._life.name, now_s)
        if isinstance(order, Acknowledge | Silence):
            order = msgspec.structs.replace(order, user=who.user)
        answer = self._obey(order, order.rid)
        if isinstance(answer, Ok):
            self._firsts.note(order, self._life.name, f"{who.user} (pid {who.pid})", now_s)
            unwritten = self._write(self._record(peer, who, order, "done", answer))
            detail = "; ".join(filter(None, (answer.detail, earlier, unwritten)))
            return Ok(answer.rid, detail, answer.before, answer.after)
        assert isinstance(answer, Rejected), answer
        self._write(self._record(peer, who, order, "refused", answer))
        return Rejected(answer.rid, "; ".join(filter(None, (answer.reason, earlier))))

    def _denied(self, peer: Peer, who: Credentials, order: Order, answer: Rejected) -> None:
        now_s = time.monotonic()
        self._denials = max(0, self._denials - int(now_s - self._denied_at_s))
        if self._denials >= DENIALS:
            self._missed += 1
            return
        self._denials, self._denied_at_s = self._denials + 1, now_s
        self._write(self._record(peer, who, order, "denied", answer))
        self._missed = 0

    def _record(self, peer: Peer, who: Credentials, order: Order, result: str, answer: Ok | Rejected) -> ActionRecord:
        ok = Ok(0, answer.reason) if isinstance(answer, Rejected) else answer
        return ActionRecord(
            at=round(time.time(), 3), process=self._life.name, uid=who.uid, user=who.user, pid=who.pid,
            program=peer.role, verb=verb(order), object=subject(order, self._life.name)[:LONGEST_TEXT],
            result=result, reason=reason_of(order)[:LONGEST_TEXT],  # type: ignore[arg-type]
            detail="; ".join(filter(None, (wording(order), ok.detail)))[:LONGEST_TEXT],
            before=ok.before, after=ok.after, missed=self._missed,
        )  # fmt: skip

    def _write(self, record: ActionRecord) -> str:
        """Into the audit log, and into this process's own in any case. Returns what the operator must know."""
        log.info(
            "audit: %s %s", record.verb, record.object,
            extra={"result": record.result, "user": record.user, "uid": record.uid, "by": record.pid,
                   "reason": repr(record.reason), "detail": repr(record.detail)},
        )  # fmt: skip
        problem = self._actions.write(record)
        if problem:
            text = f"not in the audit log: {problem}"
            self._life.troubles.say("audit log", text, self._life.loop.now_ns())
            log.error("%s; it is in this log only", text)
            return text
        self._life.troubles.over("audit log")
        return ""

    # --- doing it --------------------------------------------------------------------------------------------------

    def _obey(self, message: ToProcess, rid: int) -> Answer:
        own = self._life.name
        if isinstance(message, Witness):
            return Rejected(rid, message.refused) if message.refused else Ok(rid, message.detail)
        for_another = isinstance(message, Drain | Undrain) and message.name not in ("", own)
        if not for_another and isinstance(message, Drain | Undrain | Stop | SetLogLevel):
            if isinstance(message, Stop) and (answer := self._life.command(message)) is not None:
                return answer  # the supervisor stops more than itself
            return self._obey_common(message)
        return self._life.command(message) or Rejected(rid, f"{own} does not understand that command")

    def _obey_common(self, message: Drain | Undrain | Stop | SetLogLevel) -> Ok:
        before: str = self._life.state
        if isinstance(message, Drain):
            self._life.drain()
        elif isinstance(message, Undrain):
            self._life.undrain()
        elif isinstance(message, Stop):
            self._life.loop.soon(lambda: self._life.shut_down(message.deadline_s))
        else:
            before = logs.level()
            logs.set_level(message.level)
            return Ok(message.rid, "", before, message.level)
        return Ok(message.rid, self._life.state, before, self._life.state)

    def _status(self, rid: int) -> Status:
        life, description = self._life, self._life.describe()
        return Status(
            rid, life.name, life.role, life.pid, life.state, life.epoch,
            (time.monotonic_ns() - life.started_ns) / 1e9, life.progress,
            description.load, description.detail, description.models, description.counters,
            BUILD, life.troubles.texts(life.loop.now_ns()), life.drained,
        )  # fmt: skip
