"""Waits for a device on a thread, so that the loop need not: it goes on to hear plans, heartbeats and commands."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from bus.loop import Loop
from workers.step.readback import Reading


class Waiter:
    """Calls back on the loop when a reading is there, or has failed.

    Args:
        on_ready: also called for one that nobody wants any more.
    """

    def __init__(self, loop: Loop, on_ready: Callable[[], None]) -> None:
        self._loop, self._on_ready = loop, on_ready
        self._asked: queue.SimpleQueue[Reading | None] = queue.SimpleQueue()
        self._last: Reading | None = None
        self._wake = -1

    def watch(self, reading: Reading) -> None:
        """Call back for this one, once however often it is asked for."""
        if reading is self._last:
            return
        self._last = reading
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            self._loop.add_reader(self._wake, self._woken)
            threading.Thread(target=self._run, args=(self._wake,), name="waiter", daemon=True).start()
        self._asked.put(reading)

    def close(self) -> None:
        """Call back no more."""
        if self._wake >= 0:
            self._loop.remove_reader(self._wake)
            self._asked.put(None)
            self._wake = -1

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        self._on_ready()

    def _run(self, wake: int) -> None:
        while (reading := self._asked.get()) is not None:
            with suppress(RuntimeError):  # the loop finds it too, where it can be told
                reading.wait()
            os.eventfd_write(wake, 1)
        os.close(wake)
