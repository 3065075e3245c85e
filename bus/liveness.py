"""Death of a process, from the kernel: a pidfd becomes readable. No timer, no guess, no reuse of pids."""

from __future__ import annotations

import os

from bus.loop import Callback, Loop


class DeathWatch:
    """Calls back once when process `pid` is dead. Works for processes that are not children, and of other users.

    A pid that is dead already calls back in the next turn of the loop.
    """

    def __init__(self, loop: Loop, pid: int, on_death: Callback) -> None:
        self._loop, self._on_death = loop, on_death
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1
            loop.soon(self._dead)
        else:
            loop.add_reader(self._fd, self._dead)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._on_death = lambda: None
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _dead(self) -> None:
        on_death = self._on_death
        self.close()
        on_death()
