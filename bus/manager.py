"""The conversation with the service manager: sd_notify(3), the watchdog, and time for what takes long.

What it is told is what has happened, never that a timer ran out: the watchdog is fed while the process is idle or gets
on, a start is given more time while the service says something new, and a drain pays a few seconds ahead as it goes.
Without `$NOTIFY_SOCKET` nothing is said.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Final

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
AHEAD_S: Final = 20.0  # is asked for each time, so a manager that is late by a few looks still waits
STANDSTILL_S: Final = 600.0  # a start in which nothing changes for so long is not given more time


def notify(message: str, fds: Sequence[int] = ()) -> None:
    """Tell the service manager, where there is one; descriptors go into its store with `FDSTORE=1`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sender.sendmsg([message.encode()], rights)
        except OSError as error:
            log.warning("service manager does not listen: %s", error)


def keep_fd(name: str, fd: int) -> None:
    """Give the manager a duplicate of `fd` to hold; the next incarnation of this unit finds it under `name`."""
    notify(f"FDSTORE=1\nFDNAME={name}", [fd])


def watchdog_s() -> float | None:
    """How often the manager wants to hear from this process; None where it does not, or means another."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


def more_time(seconds: float) -> None:
    """The start or stop under way takes `seconds` from now, if that is later than what is granted."""
    notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


class Reporter:
    """What the manager shows of a process (`systemctl status`), and how long it waits for its start."""

    def __init__(self) -> None:
        self._said = ""
        self._changed_s = time.monotonic()
        self.wanted = bool(os.environ.get("NOTIFY_SOCKET"))

    def look(self, text: str, *, starting: bool) -> None:
        """Every `LOOK_S`: `text` is what the process says of itself now."""
        if not self.wanted:
            return
        now = time.monotonic()
        if text != self._said:
            self._said, self._changed_s = text, now
            notify("STATUS=" + " ".join(text.split()))
        if starting and now - self._changed_s < STANDSTILL_S:
            more_time(AHEAD_S)
