"""`bus.loop.Loop` on the event loop that Textual already runs. Nothing else."""

from __future__ import annotations

import asyncio
import time

from bus.loop import Callback, Cancel


class GuestLoop:
    """The running asyncio loop, as bus endpoints want it. Make it on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, nanoseconds."""
        return time.monotonic_ns()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable."""
        self._loop.add_reader(fd, callback)

    def remove_reader(self, fd: int) -> None:
        """The opposite."""
        self._loop.remove_reader(fd)

    def soon(self, callback: Callback) -> None:
        """Call once, in the next turn."""
        self._loop.call_soon(callback)

    def after(self, seconds: float, callback: Callback) -> Cancel:
        """Call once, later."""
        return self._loop.call_later(seconds, callback).cancel

    def every(self, seconds: float, callback: Callback) -> Cancel:
        """Call again and again."""
        handle: asyncio.TimerHandle

        def again() -> None:
            nonlocal handle
            handle = self._loop.call_later(seconds, again)
            callback()

        handle = self._loop.call_later(seconds, again)
        return lambda: handle.cancel()
