"""Orders that whoever keeps the processes carries out and no door of the stack: restarts, where systemd does. It may
take seconds to answer, and the screen goes on meanwhile: a thread waits for it."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from admin_tui.actions import Order
from admin_tui.courier import OnAnswer
from admin_tui.text import sanitize
from bus.loop import Loop

MOST_AT_ONCE: Final = 8


class Outcome(NamedTuple):
    """What became of an order, for the operator."""

    done: bool
    text: str


class Keeper(Protocol):
    """Who starts again what ends, where that is no process of the stack."""

    def restart(self, name: str, deadline_s: float, reason: str) -> Outcome:
        """Have a process ended and started again, with those that go with it. Blocks until that has begun; is called
        on any thread, on several at a time. Whether the operator may, it finds out itself.

        Args:
            deadline_s: for a drain before; 0 is none.
            reason: for the audit log.
        """
        ...


class Keeping:
    """Orders on their way to the keeper.

    Args:
        loop: on which answers are given.
    """

    def __init__(self, loop: Loop, keeper: Keeper) -> None:
        self._loop, self._keeper = loop, keeper
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._answers: deque[tuple[OnAnswer, Outcome]] = deque()
        self._under_way = 0
        self._lock, self._closed = threading.Lock(), False  # nobody writes to a descriptor that is another's by then
        loop.add_reader(self._signal, self._deliver)

    @staticmethod
    def carries_out(order: Order) -> bool:
        """Whether it is one for a keeper."""
        return order.verb in ("restart", "kill")

    def give(self, order: Order, on_answer: OnAnswer) -> None:
        """Give an order; `on_answer(done, text)` is called once on the loop, unless the screen ends before."""
        if self._under_way >= MOST_AT_ONCE:
            on_answer(False, f"{MOST_AT_ONCE} restarts are being ordered; again when they are answered")
            return
        self._under_way += 1
        threading.Thread(target=self._carry_out, args=(order, on_answer), name="keeper", daemon=True).start()

    def close(self) -> None:
        """What was ordered is carried out; nobody is told."""
        self._loop.remove_reader(self._signal)
        with self._lock:
            self._closed = True
            os.close(self._signal)

    def _carry_out(self, order: Order, on_answer: OnAnswer) -> None:
        seconds = 0.0 if order.verb == "kill" else order.deadline_s()
        try:
            outcome = self._keeper.restart(order.target, seconds, order.reason)
        except Exception as error:  # a thread that dies would leave the operator without an answer
            outcome = Outcome(False, f"{type(error).__name__}: {error}")
        with self._lock:
            if not self._closed:
                self._answers.append((on_answer, outcome))
                os.eventfd_write(self._signal, 1)

    def _deliver(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        while self._answers and not self._closed:  # an answer may end the screen
            on_answer, outcome = self._answers.popleft()
            self._under_way -= 1
            on_answer(outcome.done, sanitize(outcome.text))
