"""One event loop interface, two implementations.

`UvLoop` runs on asyncio with uvloop: for processes that also speak HTTP or use asyncio libraries.
`PollLoop` blocks in epoll: for workers and the page server, where nothing else needs a loop and every
microsecond of latency counts. Endpoints know only `Loop`, so the same code runs on both, and in tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import uvloop

Callback = Callable[[], None]
Cancel = Callable[[], None]


class Loop(Protocol):
    """What endpoints and services need of an event loop. All callbacks run on the loop's own thread."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, nanoseconds."""
        ...

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while `fd` is readable (level-triggered)."""
        ...

    def remove_reader(self, fd: int) -> None:
        """The opposite; before the descriptor is closed. Unknown descriptors are ignored."""
        ...

    def soon(self, callback: Callback) -> None:
        """Call once, in the next turn of the loop."""
        ...

    def after(self, seconds: float, callback: Callback) -> Cancel:
        """Call once, later."""
        ...

    def every(self, seconds: float, callback: Callback) -> Cancel:
        """Call again and again; a late call is not made up for."""
        ...


class RunnableLoop(Loop, Protocol):
    """A loop that a process's `main` drives."""

    def run(self, start: Callback) -> None:
        """Call `start`, then turn until `stop`."""
        ...

    def stop(self) -> None:
        """End `run` after this turn."""
        ...

    def close(self) -> None:
        """After `run`, and after everything on the loop was closed."""
        ...

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Call back on the loop when the signal arrives."""
        ...


class UvLoop:
    """`Loop` on asyncio with uvloop. `asyncio` is the loop itself, for services that make tasks."""

    def __init__(self) -> None:
        self.asyncio: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._failure: BaseException | None = None
        self.asyncio.set_exception_handler(self._on_exception)

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def add_reader(self, fd: int, callback: Callback) -> None:
        self.asyncio.add_reader(fd, callback)

    def remove_reader(self, fd: int) -> None:
        self.asyncio.remove_reader(fd)

    def soon(self, callback: Callback) -> None:
        self.asyncio.call_soon(callback)

    def after(self, seconds: float, callback: Callback) -> Cancel:
        return self.asyncio.call_later(seconds, callback).cancel

    def every(self, seconds: float, callback: Callback) -> Cancel:
        return _every(self, seconds, callback)

    def run(self, start: Callback) -> None:
        asyncio.set_event_loop(self.asyncio)
        self.asyncio.call_soon(start)
        try:
            self.asyncio.run_forever()
        finally:
            self._cancel_tasks()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self.asyncio.stop()

    def close(self) -> None:
        self.asyncio.close()

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        self.asyncio.add_signal_handler(number, callback)

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # A callback that raises has broken an invariant of the process. Going on would hide it; restarting heals it.
        # Exceptions of abandoned tasks and transports carry a future or a protocol and are logged only.
        failure = context.get("exception")
        if isinstance(failure, BaseException) and "handle" in context:
            self._failure = failure
            self.asyncio.stop()
        else:
            loop.default_exception_handler(context)

    def _cancel_tasks(self) -> None:
        tasks = asyncio.all_tasks(self.asyncio)
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(asyncio.TimeoutError):
                self.asyncio.run_until_complete(
                    asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=2.0)
                )


class PollLoop:
    """`Loop` on epoll, no asyncio."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._timers: list[tuple[int, int]] = []  # (when, number), a heap
        self._pending: dict[int, Callback] = {}  # by number; what was cancelled or called is not here any more
        self._order = itertools.count()
        self._soon: deque[Callback] = deque()
        self._running = False
        self._wake_read = self._wake_write = -1

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def add_reader(self, fd: int, callback: Callback) -> None:
        if fd not in self._readers:
            self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def soon(self, callback: Callback) -> None:
        self._soon.append(callback)

    def after(self, seconds: float, callback: Callback) -> Cancel:
        number = next(self._order)
        self._pending[number] = callback
        heapq.heappush(self._timers, (self.now_ns() + int(seconds * 1e9), number))

        def cancel() -> None:
            self._pending.pop(number, None)

        return cancel

    def every(self, seconds: float, callback: Callback) -> Cancel:
        return _every(self, seconds, callback)

    def run(self, start: Callback) -> None:
        self._running = True
        self.soon(start)
        while self._running:
            self.turn()

    def turn(self, longest_s: float = 3600.0) -> None:
        """One turn: due timers, what `soon` holds, then readable descriptors; waits for the first of them."""
        readable = self._epoll.poll(self._wait_s(longest_s))
        for fd, callback in [(fd, self._readers.get(fd)) for fd, _ in readable]:
            # A callback before this one may have removed the descriptor, and another may have got its number since:
            # a pidfd of a process that was just started, which would seem to have died already.
            if callback is not None and self._readers.get(fd) is callback:
                callback()
        now = self.now_ns()
        while self._timers and self._timers[0][0] <= now:
            _, number = heapq.heappop(self._timers)
            if (timer := self._pending.pop(number, None)) is not None:
                timer()
        for _ in range(len(self._soon)):  # not those that these calls add: other sources get their turn
            self._soon.popleft()()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        if self._wake_read < 0:
            # epoll.poll is resumed after a signal (PEP 475), so the handler needs something to wake it with.
            self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            self.add_reader(self._wake_read, lambda: self._drain_wake())
        signal.signal(number, lambda *_: self.soon(callback))

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _wait_s(self, longest_s: float) -> float:
        if self._soon:
            return 0.0
        if not self._timers:
            return longest_s
        return max(0.0, min(longest_s, (self._timers[0][0] - self.now_ns()) / 1e9))


def _every(loop: Loop, seconds: float, callback: Callback) -> Cancel:
    alive = True
    cancel: Cancel = lambda: None  # noqa: E731

    def again() -> None:
        nonlocal cancel
        if not alive:
            return
        cancel = loop.after(seconds, again)
        callback()

    def stop() -> None:
        nonlocal alive
        alive = False
        cancel()

    cancel = loop.after(seconds, again)
    return stop
