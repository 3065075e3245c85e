"""Which log records are shown, and how they look. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.acted import People
from admin_tui.filters import parse
from admin_tui.text import count, sanitize
from bus.logread.query import BadQuery, Query, parse_pattern, parse_request, parse_span
from bus.logread.records import LEVELS, Level, LogRecord

WINDOWS: Final = (("1h", 3600.0), ("15m", 900.0), ("5m", 300.0), ("1m", 60.0))
STEPS: Final[tuple[Level, ...]] = ("debug", "info", "warning", "error")
LONGEST_LINE: Final = 2000
COLOURS: Final[dict[str, str]] = {
    "debug": palette.FAINT, "info": palette.SOFT, "warning": palette.WARN, "error": palette.CRIT,
    "critical": palette.CRIT,
}  # fmt: skip
FIELDS: Final = "unit, level, request, since; any other word is a regular expression"


class LogLook(NamedTuple):
    """How the log is looked at.

    Attributes:
        window: index of `WINDOWS`.
        text: the filter as typed.
    """

    window: int = 0
    level: Level = "info"
    unit: str = ""
    request: str = ""
    pattern: str = ""
    text: str = ""

    def query(self, now_s: float) -> Query:
        """What it asks for."""
        since = now_s - WINDOWS[self.window][1]
        return Query(self.unit, self.level, self.request, parse_pattern(self.pattern), since)

    def next_window(self) -> LogLook:
        """A shorter time, after the shortest the longest."""
        return self._replace(window=(self.window + 1) % len(WINDOWS))

    def next_level(self) -> LogLook:
        """Only worse; after the worst everything."""
        return self._replace(
            level=STEPS[(STEPS.index(self.level) + 1) % len(STEPS)] if self.level in STEPS else "debug"
        )

    def describe(self) -> str:
        """For the edge."""
        parts = [WINDOWS[self.window][0], f"{self.level} and worse" if self.level != "debug" else "every level"]
        parts += [f"unit={self.unit}"] if self.unit else []
        parts += [f"request={self.request}"] if self.request else []
        parts += [f"/{self.pattern}/"] if self.pattern else []
        return " | ".join(parts)


def with_filter(look: LogLook, text: str) -> LogLook:
    """The look that a filter line asks for: `unit=worker level=warning request=1f since=5m timeout`.

    Raises:
        BadQuery: it asks for what cannot be.
    """
    fresh = LogLook(window=look.window, level=look.level, text=text)
    words = []
    for term in parse(text):
        match term.field:
            case "":
                words.append(term.value)
            case "unit" | "process":
                fresh = fresh._replace(unit=term.value)
            case "request":
                fresh = fresh._replace(request=parse_request(term.value))
            case "level" if term.value in LEVELS:
                fresh = fresh._replace(level=term.value)
            case "since":
                seconds = parse_span(term.value)
                fits = [index for index, (_, length) in enumerate(WINDOWS) if length >= seconds]
                fresh = fresh._replace(window=fits[-1] if fits else 0)
            case _:
                raise BadQuery(f"{term.field}{term.operator}{term.value}: the fields are {FIELDS}")
    pattern = " ".join(words)
    parse_pattern(pattern)
    return fresh._replace(pattern=pattern)


def wanted(people: People, look: LogLook, now_s: float) -> list[LogRecord]:
    """The records that fit, oldest first."""
    query = look.query(now_s)
    return [record for record in people.log if query.wants(record)]


def summary(people: People, shown: int, *, follows: bool) -> str:
    """For the edge: how many of how many, and what is missing."""
    parts = [f"{count(shown)} of {count(len(people.log))} lines", "follows" if follows else "held: end follows"]
    parts += [sanitize(people.log_label, 12)] if people.log_label else []
    parts += [f"suppressed by the journal: {count(people.log_suppressed)}"] if people.log_suppressed else []
    return " | ".join(parts)


def lines(records: Sequence[LogRecord], cursor: int, width: int, height: int) -> list[Text]:
    """The records around the cursor, it among them; a line each."""
    if not records:
        return []
    top = min(max(0, cursor - height + 1 if cursor >= height else 0), max(0, len(records) - height))
    return [line(record, width, lit=top + index == cursor) for index, record in enumerate(records[top : top + height])]


def line(record: LogRecord, width: int, *, lit: bool) -> Text:
    """`18:42:05.113 W worker@3   text`."""
    text = Text(_clock(record.at), palette.FAINT)
    colour = COLOURS.get(record.level, palette.SOFT)
    text.append(f" {record.level[:1].upper()} ", f"bold {colour}")
    unit_width = 24 if width >= 100 else 14
    unit = sanitize(record.unit, unit_width)
    text.append(f"{unit:<{unit_width}} ", palette.WATER)
    text.append(sanitize(record.text, LONGEST_LINE), palette.TEXT if record.level == "info" else colour)
    if record.more:
        text.append(f"  +{len(record.more)} lines", palette.FAINT)
    if lit:
        text.pad_right(max(0, width - text.cell_len))
        text.stylize("on #1d3a4a")
    return text


def detail(record: LogRecord | None, width: int) -> list[Text]:
    """One record in full, folded to the width."""
    if record is None:
        return [Text("no line", palette.FAINT)]
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.at)) + f".{int(record.at % 1 * 1000):03d}"
    head = Text(f"{day}  {record.level}  {sanitize(record.unit, 64)}", palette.SOFT)
    if record.request:
        head.append(f"  request {record.request}", palette.WATER)
    folded = [
        Text(whole[at : at + width], palette.TEXT)
        for whole in (sanitize(text, LONGEST_LINE) for text in (record.text, *record.more))
        for at in range(0, max(1, len(whole)), max(1, width))
    ]
    return [head, *folded]


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
