"""One piece of long work beside the loop, so that heartbeats and status go on while weights are loaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from bus.loop import Loop

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Runs `work` on a thread of its own; then, on the loop, `on_done` or `on_error`.

    Args:
        work: must not touch the loop or anything that lives on it.
        on_error: given what `work` raised.
    """

    def __init__(
        self,
        loop: Loop,
        work: Callable[[], Result],
        on_done: Callable[[Result], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._loop, self._work = loop, work
        self._on_done, self._on_error = on_done, on_error
        self._cancelled = False
        self._result: list[Result] = []
        self._error: Exception | None = None
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        loop.add_reader(self._done, self._finish)
        # A daemon: a process that is told to stop does not wait for its weights.
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Do not call back. The work goes on to its end."""
        self._cancelled = True
        self._loop.remove_reader(self._done)

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:
            self._error = error
        os.eventfd_write(self._done, 1)

    def _finish(self) -> None:
        self._loop.remove_reader(self._done)
        os.close(self._done)
        self._thread.join()
        if self._cancelled:
            return
        if self._error is not None:
            self._on_error(self._error)
        else:
            self._on_done(self._result[0])
