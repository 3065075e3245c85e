"""A feed as a file: one JSON object a line, `{"t": seconds, "kind": "update", "body": [...]}`. Pure.

Bodies are the bus messages as JSON arrays, so a recording is as stable as the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from admin_tui.acted import Actions, Logged, PeopleEvent, Vitals
from admin_tui.details import DETAILS, Detail, detail_kind
from admin_tui.keeping import Service
from admin_tui.world import Event, LinkDown, LinkUp, Services, SupervisorGone
from bus.messages.control import Access, Fleet, Notes
from bus.messages.observe import Snapshot, TimelineReply, Update

Kind = Literal[
    "snapshot",
    "update",
    "fleet",
    "services",
    "timeline",
    "up",
    "down",
    "unsupervised",
    "steps",
    "pages",
    "host",
    "bus",
    "models",
    "access",
    "notes",
    "actions",
    "logged",
    "vitals",
    "usage",
    "allowances",
]
_BODIES: Final[dict[str, type[msgspec.Struct]]] = {
    "snapshot": Snapshot, "update": Update, "fleet": Fleet, "timeline": TimelineReply,
    **{str(kind): reply for kind, reply in DETAILS.items()},
    "access": Access, "notes": Notes, "actions": Actions, "logged": Logged, "vitals": Vitals,
}  # fmt: skip


class BadRecording(ValueError):
    """A file that is not a recording; the message names file and line."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    t: float
    kind: Kind
    body: msgspec.Raw = msgspec.Raw(b"null")


class Recorded(NamedTuple):
    """An event, and when it came, in seconds from the start of the recording."""

    t: float
    event: Event


def to_line(recorded: Recorded) -> bytes:
    """One line, with its newline."""
    event = recorded.event
    kind: Kind
    if isinstance(event, Detail):
        return _line(recorded.t, detail_kind(event), event)
    if isinstance(event, PeopleEvent):
        return _line(recorded.t, type(event).__name__.lower(), event)  # type: ignore[arg-type]
    match event:
        case Snapshot():
            kind = "snapshot"
        case Update():
            kind = "update"
        case Fleet():
            kind = "fleet"
        case Services():
            return _line(recorded.t, "services", event.services)
        case TimelineReply():
            kind = "timeline"
        case LinkUp():
            kind = "up"
        case LinkDown():
            kind = "down"
        case SupervisorGone():
            kind = "unsupervised"
    body = event if isinstance(event, msgspec.Struct) else event.reason if isinstance(event, LinkDown) else None
    return _line(recorded.t, kind, body)


def _line(t: float, kind: Kind, body: object) -> bytes:
    return msgspec.json.encode(_Line(t, kind, msgspec.Raw(msgspec.json.encode(body)))) + b"\n"


def from_line(line: bytes) -> Recorded:
    """The inverse of `to_line`.

    Raises:
        BadRecording: not a line of a recording.
    """
    try:
        entry = msgspec.json.decode(line, type=_Line)
        match entry.kind:
            case "up":
                return Recorded(entry.t, LinkUp())
            case "down":
                return Recorded(entry.t, LinkDown(msgspec.json.decode(entry.body, type=str)))
            case "unsupervised":
                return Recorded(entry.t, SupervisorGone())
            case "services":
                return Recorded(entry.t, Services(msgspec.json.decode(entry.body, type=tuple[Service, ...])))
            case kind:
                return Recorded(entry.t, msgspec.json.decode(entry.body, type=_BODIES[kind]))  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRecording(str(error)) from None


def read(path: Path) -> Iterator[Recorded]:
    """All events of a file, in order.

    Raises:
        BadRecording: with file and line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield from_line(line)
                except BadRecording as error:
                    raise BadRecording(f"{path}:{number}: {error}") from None
