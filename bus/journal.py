"""Records for systemd's journal in its own form, where standard error goes there: fields that can be asked for.

    journalctl --namespace=headrace HEADRACE_PROCESS=worker@smollm2.0.0
    journalctl --namespace=headrace HEADRACE_REQUEST=chatcmpl-…

A record is one datagram of `NAME=value` lines, or name, length and bytes where a value has several lines. One that is
too large for a datagram goes as a sealed memfd. What cannot be delivered is written to standard error instead.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from array import array
from collections.abc import Iterable
from typing import Any, Final

SOCKET: Final = "/run/systemd/journal/socket"
PRIORITY: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_NAME: Final = re.compile(r"[^A-Z0-9_]")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given to a record as `extra={…}`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def is_connected(stream: int = 2) -> bool:
    """Whether this descriptor goes to the journal: `$JOURNAL_STREAM` names its device and inode."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def encode(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The record as the journal reads it."""
    record = bytearray()
    for name, value in pairs:
        data = value.encode(errors="replace")
        if b"\n" in data:
            record += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            record += name.encode() + b"=" + data + b"\n"
    return bytes(record)


def field_name(key: str) -> str:
    """`HEADRACE_…`, of what the journal lets through: capitals, digits and underscores, at most 64."""
    return ("HEADRACE_" + _NAME.sub("_", key.upper()))[:64]


class JournalHandler(logging.Handler):
    """Sends what is logged to the journal.

    Args:
        process: its name.
        otherwise: where a record goes that the journal does not take.
    """

    def __init__(self, process: str, otherwise: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self._process, self._otherwise, self._path = process, otherwise, path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(encode(self._pairs(record)))
        except OSError:
            self._otherwise.handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _pairs(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        extra = fields_of(record)
        shown = "".join(f" {key}={value}" for key, value in extra.items())
        return [
            ("MESSAGE", text + shown if "\n" not in text else text),
            ("PRIORITY", str(PRIORITY.get(record.levelname, 6))),
            ("SYSLOG_IDENTIFIER", "headrace"),
            ("HEADRACE_PROCESS", self._process),
            ("HEADRACE_LOGGER", record.name),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", str(record.lineno)),
            *((field_name(key), str(value)) for key, value in extra.items()),
        ]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.write(fd, data)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))]
                self._socket.sendmsg([], rights, 0, self._path)
            finally:
                os.close(fd)


def handler(process: str, otherwise: logging.Handler) -> logging.Handler:
    """The journal's, where standard error is connected to it and it is there; else `otherwise`."""
    there = is_connected() and os.path.exists(SOCKET)
    return JournalHandler(process, otherwise) if there else otherwise
