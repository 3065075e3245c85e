"""Which log records are wanted. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bus.logread.records import LEVELS, Level, LogRecord

LONGEST_PATTERN: Final = 200
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PREFIX: Final = re.compile(r"^(?:chatcmpl-|cmpl-|resp_|msg_|embd-|rerank-|req_)")


class BadQuery(ValueError):
    """Something that cannot be looked for; the message says why."""


class Query(NamedTuple):
    """All that is given must fit.

    Attributes:
        unit: beginning of a process's name; empty is all.
        level: this one and worse.
        request: in hex.
        pattern: found in the text or in the lines that belong to it.
        since: seconds since 1970.
    """

    unit: str = ""
    level: Level = "debug"
    request: str = ""
    pattern: re.Pattern[str] | None = None
    since: float = 0.0

    def wants(self, record: LogRecord) -> bool:
        """Whether a record fits."""
        if record.at < self.since or not record.unit.startswith(self.unit):
            return False
        if LEVELS.index(record.level) < LEVELS.index(self.level):
            return False
        if self.request and not self._names_request(record):
            return False
        pattern = self.pattern
        return pattern is None or any(pattern.search(line) for line in (record.text, *record.more))

    def _names_request(self, record: LogRecord) -> bool:
        if record.request:
            return record.request.endswith(self.request)
        return self.request in record.text or any(self.request in line for line in record.more)


def parse_pattern(text: str) -> re.Pattern[str] | None:
    """A regular expression, whatever the case; None for an empty one.

    Raises:
        BadQuery: it is none.
    """
    if len(text) > LONGEST_PATTERN:
        raise BadQuery(f"a pattern has at most {LONGEST_PATTERN} characters")
    try:
        return re.compile(text, re.IGNORECASE) if text else None
    except re.error as error:
        raise BadQuery(f"{text!r} is no regular expression: {error}") from None


def parse_request(text: str) -> str:
    """A request's id as logs have it, from that or from the id of an answer.

    Raises:
        BadQuery: not an id.
    """
    name = _PREFIX.sub("", text.strip().lower()).removeprefix("0x").lstrip("0")
    if text and not re.fullmatch(r"[0-9a-f]{1,32}", name):
        raise BadQuery(f"{text!r} is no request id: hexadecimal digits, as screens and answers show it")
    return name


def parse_span(text: str) -> float:
    """`90`, `30s`, `5m`, `1h`, `2d` in seconds.

    Raises:
        BadQuery: not a time.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", text)
    if match is None:
        raise BadQuery(f"{text!r} is no time: write for example 30s, 5m, 1h, 2d")
    return float(match[1]) * _UNITS[match[2] or "s"]
