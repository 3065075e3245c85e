"""Logging: records of the journal where standard error goes there, structured where a machine reads, readable where a
person does.

Under journald (`$JOURNAL_STREAM`) `format = "auto"` sends `bus.journal`'s records; what is written as text carries the
`<priority>` prefix of sd-daemon(3). Fields given as `extra={…}` are appended as key=value, or as members of the JSON
object.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from bus import journal
from bus.blackbox.recorder import Recorder, RecorderHandler
from bus.config import LogConfig
from bus.journal import PRIORITY, fields_of


class _Text(logging.Formatter):
    def __init__(self, unit: str, *, journal: bool) -> None:
        super().__init__()
        self._unit, self._journal = unit, journal

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        text = f"{record.getMessage()}{fields}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._journal:
            # One prefix per line, or journald gives the rest of a traceback another priority.
            prefix = f"<{PRIORITY.get(record.levelname, 6)}>"
            return "\n".join(prefix + line for line in text.splitlines())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock}.{int(record.msecs):03d} {record.levelname[0]} {self._unit} {text}"


class _Json(logging.Formatter):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "unit": self._unit,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def set_up(unit: str, config: LogConfig) -> None:
    """Send everything of this process to the journal or to standard error."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Json(unit) if config.format == "json" else _Text(unit, journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [journal.handler(unit, lines) if config.format == "auto" else lines]
    set_level(config.level)
    logging.captureWarnings(True)


def record(recorder: Recorder, unit: str) -> None:
    """Send it to the flight recorder, too."""
    if recorder.on:
        logging.getLogger().addHandler(RecorderHandler(recorder, _Text(unit, journal=False)))


def set_level(level: str) -> None:
    """Log from this level up."""
    logging.getLogger().setLevel(level.upper())


def level() -> str:
    """What `set_level` set."""
    return logging.getLevelName(logging.getLogger().level).lower()
