"""Threads for what would block a loop. Work goes there as a function, its result comes back on the loop."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from bus.loop import Loop

Result = TypeVar("Result")

_JOIN_S: Final = 1.0


class IoThreads:
    """A few threads that take work in order.

    They are daemons: a disk that never answers must not keep the process from ending.

    Attributes:
        idle: threads that have nothing to do.
    """

    def __init__(self, loop: Loop, name: str, count: int) -> None:
        self._loop = loop
        self._work: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._done: deque[tuple[Callable[[Any], None], Any, BaseException | None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.idle = count
        loop.add_reader(self._wake, self._deliver)
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[], Result], done: Callable[[Result], None]) -> None:
        """Call `work` on a thread, then `done` with its result on the loop. What it raises is raised on the loop."""
        self.idle -= 1
        self._work.put((work, done))

    def close(self) -> None:
        """No more results. Threads end with the work they have."""
        self._loop.remove_reader(self._wake)
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join(_JOIN_S)
        if not any(thread.is_alive() for thread in self._threads):  # one that lives still writes to it
            os.close(self._wake)

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            work, done = job
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            self._done.append((done, result, error))
            os.eventfd_write(self._wake, 1)

    def _deliver(self) -> None:
        os.eventfd_read(self._wake)
        while self._done:
            done, result, error = self._done.popleft()
            self.idle += 1
            if error is not None:
                raise error
            done(result)
