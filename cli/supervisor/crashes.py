"""When a death is worth a report, and having one written: by a process of its own, of lowest priority, a moment after
the death, so that the recovery comes first. At most one at a time, and none of the same process in the next minute: a
process that dies again and again would fill the host with reports of one thing."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bus.loop import Cancel, Loop

log = logging.getLogger(__name__)

EXIT_BUG: Final = 70
DELAY_S: Final = 2.0
AGAIN_S: Final = 60.0
PATIENCE_S: Final = 120.0


def is_crash(code: int | None) -> bool:
    """Whether an unexpected end says that something is wrong: a signal, or a bug. The reason of other ends is in the
    log; that of an adopted process is not known."""
    return code is not None and (code < 0 or code == EXIT_BUG)


class Pace:
    """How often. Pure."""

    def __init__(self) -> None:
        self._reported: dict[str, float] = {}
        self._until = 0.0

    def allows(self, name: str, now: float) -> bool:
        """Whether a report about that process may begin. It is then taken to be under way until `ended`."""
        last = self._reported.get(name)
        if now < self._until or (last is not None and now - last < AGAIN_S):
            return False
        self._reported[name] = now
        self._until = now + PATIENCE_S
        return True

    def ended(self) -> None:
        """The one under way is over."""
        self._until = 0.0


class CrashReports:
    """Has reports written.

    Args:
        config: the copy that processes read.
    """

    def __init__(self, loop: Loop, config: Path, clock: Callable[[], float]) -> None:
        self._loop, self._config, self._clock = loop, config, clock
        self._pace = Pace()
        self._writer: subprocess.Popen[bytes] | None = None
        self._kill_at = 0.0
        self._waiting: Cancel | None = None

    def died(self, name: str, code: int | None, how: str) -> None:
        """A process has ended, and nobody had asked for it."""
        if is_crash(code) and self._pace.allows(name, self._clock()):
            self._waiting = self._loop.after(DELAY_S, lambda: self._begin(name, how))

    def look(self) -> None:
        """See whether the writer is done. Call it now and then."""
        if self._writer is None:
            return
        if self._writer.poll() is None and self._clock() > self._kill_at:
            log.warning("the crash report takes too long and is given up")
            self._writer.kill()
            self._writer.wait()
        if self._writer.poll() is not None:
            self._writer = None
            self._pace.ended()

    def close(self) -> None:
        """Nobody waits for a report."""
        if self._waiting is not None:
            self._waiting()
        if self._writer is not None:
            self._writer.kill()
            self._writer.wait()
            self._writer = None

    def _begin(self, name: str, how: str) -> None:
        self._waiting = None
        command = [sys.executable, "-m", "cli.main", "report", "-c", str(self._config), "--crash", name, "--cause", how]
        try:
            self._writer = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            log.warning("no crash report of %s: %s", name, error)
            self._pace.ended()
            return
        self._kill_at = self._clock() + PATIENCE_S
