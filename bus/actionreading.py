"""The audit log read for somebody who may not read its files, at a control door: beside the loop, one at a time."""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from bus.actionlog import ActionRecord, audit_directory, each_action
from bus.loop import Loop
from bus.messages.control import Actions, GetActions

MOST: Final = 200  # in one answer: some 300 KB at most
MOST_WAITING: Final = 16

Tell = Callable[[Actions], object]


def newest_between(directory: Path, since: float, before: float) -> tuple[list[ActionRecord], bool]:
    """The newest `MOST` records of all processes, oldest first, and whether there are older ones.

    Args:
        since: seconds since 1970; no record is older.
        before: all are older; 0 is now.

    Raises:
        OSError: the directory, or a file in it, may not be read.
    """
    wanted = (each for each in each_action(directory) if each.at >= since and (not before or each.at < before))
    found = heapq.nlargest(MOST + 1, wanted, key=lambda record: record.at)
    more = len(found) > MOST
    if more:
        # Those of one moment stay together: who asks on asks for what is older than the first.
        found = [record for record in found if record.at > found[MOST].at] or found[:MOST]
    return sorted(found, key=lambda record: record.at), more


class ActionReading:
    """Answers `GetActions`. Files may be large and disks slow, and a process has its work: a thread reads.

    Args:
        loop: on which answers are given.
        directory: of the audit log; the host's where it is not given.
    """

    def __init__(self, loop: Loop, directory: Path | None = None) -> None:
        self._loop, self._directory = loop, directory
        self._waiting: deque[tuple[GetActions, Tell]] = deque()
        self._answer: Actions | None = None
        self._signal = -1

    def ask(self, question: GetActions, tell: Tell) -> None:
        """`tell` is called on the loop, now or later."""
        if len(self._waiting) >= MOST_WAITING:
            tell(Actions(question.rid, (), problem="too many ask at once; ask again"))
            return
        self._waiting.append((question, tell))
        if len(self._waiting) == 1:
            self._begin()

    def close(self) -> None:
        """Nobody is told any more."""
        self._waiting.clear()
        if self._signal >= 0:
            self._loop.remove_reader(self._signal)
            # The thread may be about to write: its end is the descriptor's, and nobody else gets the number before.
            threading.Thread(target=_close_after, args=(self._thread, self._signal), daemon=True).start()
            self._signal = -1

    def _begin(self) -> None:
        if self._signal < 0:
            self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._loop.add_reader(self._signal, self._end)
        question = self._waiting[0][0]
        self._thread = threading.Thread(target=self._read, args=(question, self._signal), name="actions", daemon=True)
        self._thread.start()

    def _read(self, question: GetActions, signal: int) -> None:
        try:
            records, more = newest_between(self._directory or audit_directory(), question.since, question.before)
            self._answer = Actions(question.rid, tuple(map(msgspec.json.encode, records)), more)
        except OSError as error:
            self._answer = Actions(question.rid, (), problem=f"{error.filename}: {error.strerror}")
        os.eventfd_write(signal, 1)

    def _end(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        answer, self._answer = self._answer, None
        if answer is None or not self._waiting:
            return
        _, tell = self._waiting.popleft()
        tell(answer)
        if self._waiting:
            self._begin()


def _close_after(thread: threading.Thread, signal: int) -> None:
    thread.join()
    os.close(signal)
