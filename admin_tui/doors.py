"""What is asked at control doors beside orders: what this operator may do, what was said of findings; and, while the
metrics process is silent, how everybody is.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from admin_tui.acted import Actions, PeopleEvent, Vitals
from bus.actionlog import ActionRecord
from bus.identity import Visitor
from bus.link import Link
from bus.messages import control
from bus.messages.control import Access, FromProcess, GetAccess, GetActions, GetNotes, GetStatus, Notes, Status
from bus.names import CONTROL_DOOR, METRICS, InvalidName, parse_process

ASK_S: Final = 2.0
SILENT_NS: Final = 3_500_000_000  # so long without the metrics process, and everybody is asked
FRESH_NS: Final = 7_000_000_000  # an answer that is older says nothing about now
MOST: Final = 256


class Doors:
    """Asks, on behalf of `me`."""

    def __init__(self, me: Visitor, on_event: Callable[[PeopleEvent], None]) -> None:
        self._me = copy.copy(me)
        self._me.name = f"{me.name}-looks"  # a name is one connection at a door, and orders have others
        self._on_event = on_event
        self._rids = itertools.count(1)
        self._known_access = False
        self._heard_ns = me.loop.now_ns()
        self._others: dict[str, Link[FromProcess]] = {}
        self._statuses: dict[str, tuple[int, Status]] = {}
        self._metrics: Link[FromProcess] = Link(
            self._me, METRICS, CONTROL_DOOR, "control", FromProcess,
            on_message=self._on_message, on_up=self._on_up,
        )  # fmt: skip
        self._stop = me.loop.every(ASK_S, self._ask)

    @property
    def strangers(self) -> bool:
        """Whether the stack is another user's, whose files are not ours to read."""
        lock = self._me.run / f"{METRICS}.lock"
        return lock.exists() and not os.access(lock, os.R_OK)

    def ask_actions(self) -> None:
        """The newest of the audit log comes as an event."""
        self._metrics.send(GetActions(next(self._rids)))

    def close(self) -> None:
        """Ask nobody any more."""
        self._stop()
        self._leave_others()
        self._metrics.close()

    def _on_up(self) -> None:
        self._metrics.send(GetAccess(next(self._rids)))
        self._ask()

    def _ask(self) -> None:
        """Gone or stuck is the same here: it does not answer."""
        self._metrics.send(GetNotes(next(self._rids)))
        if self._me.loop.now_ns() - self._heard_ns >= SILENT_NS:
            self._ask_others()

    def _ask_others(self) -> None:
        for path in sorted(self._me.run.glob(f"*.{CONTROL_DOOR}.sock"))[:MOST]:
            name = path.name.removesuffix(f".{CONTROL_DOOR}.sock")
            if name not in self._others and name != METRICS and _is_name(name):
                self._others[name] = self._open(name)
        for link in self._others.values():
            link.send(GetStatus(next(self._rids)))
            if not self._known_access:
                link.send(GetAccess(next(self._rids)))
        now_ns = self._me.loop.now_ns()
        fresh = (status for at_ns, status in self._statuses.values() if now_ns - at_ns < FRESH_NS)
        self._on_event(Vitals(tuple(fresh)))

    def _open(self, name: str) -> Link[Any]:
        link: Link[FromProcess] = Link(
            self._me, name, CONTROL_DOOR, "control", FromProcess,
            on_message=self._on_message, on_up=lambda: self._ask_one(link),
        )  # fmt: skip
        return link

    def _ask_one(self, link: Link[FromProcess]) -> None:
        link.send(GetStatus(next(self._rids)))

    def _leave_others(self) -> None:
        if self._others:
            for link in self._others.values():
                link.close()
            self._others.clear()
            self._statuses.clear()
            self._on_event(Vitals(()))

    def _on_message(self, message: FromProcess) -> None:
        if isinstance(message, Access):
            self._known_access = True
            self._on_event(message)
        elif isinstance(message, control.Actions):
            records = tuple(msgspec.json.decode(line, type=ActionRecord) for line in message.records)
            self._on_event(Actions(records, message.problem))
        elif isinstance(message, Notes):
            self._heard_ns = self._me.loop.now_ns()
            self._leave_others()
            self._on_event(message)
        elif isinstance(message, Status):
            self._statuses[message.name] = self._me.loop.now_ns(), message


def _is_name(name: str) -> bool:
    try:
        parse_process(name)
    except InvalidName:
        return False
    return True
