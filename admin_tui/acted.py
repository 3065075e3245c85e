"""What the screens know of people: who looks, what others did, what they said of findings; and what processes logged.

These come from control doors and files, not from the metrics process: they are there when that is dead. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from bus.actionlog import ActionRecord
from bus.logread.records import LogRecord
from bus.messages.control import Access, FindingNote, Notes, Status

MAX_LOGGED: Final = 5000
MAX_ACTIONS: Final = 500


class Logged(msgspec.Struct, array_like=True, frozen=True):
    """Log records that are new; where they come from, and why none come."""

    records: tuple[LogRecord, ...]
    label: str = ""
    problem: str = ""
    suppressed: int = 0


class Actions(msgspec.Struct, array_like=True, frozen=True):
    """The newest records of the audit log, oldest first; why there are none."""

    records: tuple[ActionRecord, ...]
    problem: str = ""


class Vitals(msgspec.Struct, array_like=True, frozen=True):
    """What processes say of themselves at their control doors, while the metrics process is silent."""

    statuses: tuple[Status, ...]


PeopleEvent = Logged | Actions | Vitals | Notes | Access


class People:
    """The latest of each.

    Attributes:
        access: what this operator may do; None before a process said so.
        log: what was logged, oldest first. `log_version` goes up with each change.
        vitals: by name; empty while the metrics process answers.
    """

    def __init__(self) -> None:
        self.access: Access | None = None
        self.notes: dict[tuple[str, str], tuple[FindingNote, ...]] = {}
        self.actions: tuple[ActionRecord, ...] = ()
        self.actions_problem = ""
        self.log: deque[LogRecord] = deque(maxlen=MAX_LOGGED)
        self.log_version = 0
        self.log_label = ""
        self.log_problem = "asking for logs"
        self.log_suppressed = 0
        self.vitals: dict[str, Status] = {}

    @property
    def may_act(self) -> bool:
        """Whether to offer actions. Before anybody said, yes: the processes decide anyway."""
        return self.access is None or self.access.role == "admin"

    def note(self, code: str, subject: str, kind: str) -> FindingNote | None:
        """What was said of a finding."""
        return next((note for note in self.notes.get((code, subject), ()) if note.kind == kind), None)

    def quiet(self, code: str, subject: str) -> bool:
        """Whether it need not be raised: somebody looks after it, or it is silenced."""
        return (code, subject) in self.notes

    def take(self, event: PeopleEvent) -> None:
        """Something came."""
        match event:
            case Access():
                self.access = event
            case Notes():
                grouped: dict[tuple[str, str], tuple[FindingNote, ...]] = {}
                for note in event.notes:
                    key = note.code, note.subject
                    grouped[key] = (*grouped.get(key, ()), note)
                self.notes = grouped
            case Actions():
                self.actions, self.actions_problem = event.records[-MAX_ACTIONS:], event.problem
            case Vitals():
                self.vitals = {status.name: status for status in event.statuses}
            case Logged():
                if event.records:
                    self.log_version += 1
                    self.log.extend(event.records)
                self.log_label, self.log_problem = event.label, event.problem
                self.log_suppressed = event.suppressed
