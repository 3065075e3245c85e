"""One line of a log as a record. Pure; the inverse of `bus.logs`, and of what journalctl prints as JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

Level = Literal["debug", "info", "warning", "error", "critical"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
MAX_TEXT: Final = 4000
MAX_MORE: Final = 60  # lines of a traceback
SUPPRESSED: Final = "a596d6fe7bfa4994828e72309e95d61e"  # MESSAGE_ID of "Suppressed N messages from …"
_LETTERS: Final[dict[str, Level]] = {level[0].upper(): level for level in LEVELS}
_LINE: Final = re.compile(r"(\d\d):(\d\d):(\d\d)\.(\d{3}) ([DIWEC]) (\S+) (.*)", re.DOTALL)
_REQUEST: Final = re.compile(r"\brequest[= ]([0-9a-f]{1,16})\b")
_DAY_S: Final = 86_400
_LOOSE_S: Final = 60.0  # lines of several threads are not quite in order


class LogRecord(NamedTuple):
    """What a process said.

    Attributes:
        at: seconds since 1970.
        unit: the process's name.
        text: the line, its fields at its end.
        more: lines that belong to it: a traceback.
        request: the request that it is about, in hex; empty where it is about none.
        suppressed: the journal left out so many lines here.
    """

    at: float
    level: Level
    unit: str
    text: str
    more: tuple[str, ...] = ()
    request: str = ""
    suppressed: int = 0


def request_of(text: str) -> str:
    """The request that a line names: `request=1f` or `request 1f`."""
    found = _REQUEST.search(text)
    return found[1] if found else ""


def from_lines(lines: Iterable[str], unit: str, last_at: float) -> list[LogRecord]:
    """Records of a log file's lines, of which the last was written at about `last_at`.

    Lines have a time of day and no date: the dates are counted back from the end. A line that does not begin like one
    belongs to the record before it.
    """
    records: list[LogRecord] = []
    for line in lines:
        record = _json_record(line, unit) if line.startswith("{") else _text_record(line)
        if record is not None:
            records.append(record)
        elif records and len(records[-1].more) < MAX_MORE:
            records[-1] = records[-1]._replace(more=(*records[-1].more, line[:MAX_TEXT]))
    return list(reversed(list(_dated(reversed(records), last_at))))


def _text_record(line: str) -> LogRecord | None:
    if (match := _LINE.fullmatch(line)) is None:
        return None
    hours, minutes, seconds, milliseconds = (int(match[n]) for n in range(1, 5))
    at = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    return LogRecord(at, _LETTERS[match[5]], match[6], match[7][:MAX_TEXT], (), request_of(match[7]))


def _json_record(line: str, unit: str) -> LogRecord | None:
    try:
        entry: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        at = float(entry["ts"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    level = entry.get("level")
    known = ("ts", "level", "unit", "logger", "message", "exception")
    fields = "".join(f" {key}={value}" for key, value in entry.items() if key not in known)
    text = f"{entry.get('message', '')}{fields}"[:MAX_TEXT]
    more = tuple(str(entry.get("exception", "")).splitlines()[:MAX_MORE])
    return LogRecord(
        at, level if level in LEVELS else "info", str(entry.get("unit") or unit), text, more, request_of(text)
    )


def _dated(newest_first: Iterable[LogRecord], last_at: float) -> Iterator[LogRecord]:
    """The records with dates; those out of JSON have them."""
    later = last_at
    for record in newest_first:
        at = record.at
        if at < _DAY_S:
            at = _midnight(later) + at
            if at > later + _LOOSE_S:
                at -= _DAY_S
        later = at
        yield record._replace(at=at)


def _midnight(at: float) -> float:
    day = time.localtime(at)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))


def from_journal(line: bytes) -> LogRecord | None:
    """A record of a line of `journalctl -o json`; None where it is none."""
    try:
        entry: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    message = entry.get("MESSAGE") or ""
    if isinstance(message, list):  # bytes that are not text come as numbers
        message = bytes(n & 255 for n in message if isinstance(n, int)).decode("utf-8", "replace")
    text, *more = str(message).split("\n")
    dropped = entry.get("N_DROPPED") if entry.get("MESSAGE_ID") == SUPPRESSED else None
    unit = str(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or "")
    return LogRecord(
        at, _level(str(entry.get("PRIORITY", "6"))), process_of(unit),
        text[:MAX_TEXT], tuple(line[:MAX_TEXT] for line in more[:MAX_MORE]), request_of(text),
        int(str(dropped)) if str(dropped).isdigit() else 0,
    )  # fmt: skip


def _level(priority: str) -> Level:
    number = int(priority) if priority.isdigit() else 6
    return "critical" if number <= 2 else ("error", "warning", "info", "info", "debug")[min(number, 7) - 3]


def process_of(unit: str) -> str:
    """`headrace-worker@m.0.0.service` is worker@m.0.0, `headrace-kv.service` is kv@host."""
    name = unit.removesuffix(".service").removeprefix("headrace-")
    return name if "@" in name or not name else f"{name}@host"
