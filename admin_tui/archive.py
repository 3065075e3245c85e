"""What is read from this host's files and journal for the screens: logs and the audit log. Only while looked at."""

from __future__ import annotations

import time
from typing import Final

from admin_tui.acted import MAX_ACTIONS, MAX_LOGGED, Actions, Logged
from bus.actionlog import audit_directory, newest_actions
from bus.logread.journald import JournalSource
from bus.logread.source import Source, open_source

SINCE_S: Final = 3600.0
REOPEN_S: Final = 5.0


class Archive:
    """Logs and the audit log of this host."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._opened_s = 0.0
        self._last_at = 0.0

    def logs(self) -> Logged:
        """What is new in the logs. The first time, what there was."""
        now_s = time.monotonic()
        ended = isinstance(self._source, JournalSource) and self._source.ended
        if self._source is None or (ended and now_s - self._opened_s > REOPEN_S):
            self._opened_s = now_s
            self._source = open_source(since_s=self._last_at + 1e-3 if self._last_at else time.time() - SINCE_S)
        records = self._source.poll()[-MAX_LOGGED:]
        if records:
            self._last_at = records[-1].at
        source = self._source
        return Logged(tuple(records), source.label, source.problem, source.suppressed)

    @staticmethod
    def actions() -> Actions:
        """The newest of the audit log."""
        directory = audit_directory()
        try:
            return Actions(tuple(newest_actions(directory))[-MAX_ACTIONS:])
        except OSError as error:
            return Actions((), f"{directory}: {error.strerror}; ask as the stack's own user")

    def close(self) -> None:
        """No journalctl outlives the screen."""
        if self._source is not None:
            self._source.close()
