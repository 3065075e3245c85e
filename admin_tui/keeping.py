"""What whoever keeps the processes is asked for and no door of the stack, where that is systemd: restarts, and how its
services are. It may take seconds to answer, and the screen goes on meanwhile: a thread waits for it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from admin_tui.actions import Order
from admin_tui.courier import OnAnswer
from admin_tui.text import sanitize
from bus.loop import Loop
from bus.messages.common import ProcessState

MOST_AT_ONCE: Final = 8
LOOK_S: Final = 5.0  # how often services are asked for


class Service(NamedTuple):
    """A process as the keeper's own unit of it.

    Attributes:
        process: that runs in it, or is started as it.
        unit: what the keeper calls it.
        status: of the process: it starts, is ready, is given up.
        state: in the keeper's words.
        memory: bytes of everything in it; 0 where that is not counted. `most`: it may have; 0 is no limit.
        last_stop: how it ended last; empty where nothing is known of that.
    """

    process: str
    unit: str
    status: ProcessState
    state: str
    pid: int
    restarts: int
    uptime_s: float
    memory: int = 0
    most: int = 0
    last_stop: str = ""


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

    def services(self) -> tuple[Service, ...]:
        """All of them; none where it keeps none here. Blocks; is called on any thread."""
        ...


class Keeping:
    """Orders on their way to the keeper, and what it says of its services.

    Args:
        loop: on which answers are given.
        on_services: is told them now and then.
    """

    def __init__(
        self, loop: Loop, keeper: Keeper, on_services: Callable[[tuple[Service, ...]], None] = lambda _: None
    ) -> None:
        self._loop, self._keeper, self._on_services = loop, keeper, on_services
        self._services: deque[tuple[Service, ...]] = deque(maxlen=1)
        self._looking = False
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._answers: deque[tuple[OnAnswer, Outcome]] = deque()
        self._under_way = 0
        self._lock, self._closed = threading.Lock(), False  # nobody writes to a descriptor that is another's by then
        loop.add_reader(self._signal, self._deliver)
        self._stop_looking = loop.every(LOOK_S, self._look)
        self._look()

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
        self._stop_looking()
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

    def _look(self) -> None:
        if not self._looking:  # one question at a time, however long it takes
            self._looking = True
            threading.Thread(target=self._find_services, name="services", daemon=True).start()

    def _find_services(self) -> None:
        try:
            found = self._keeper.services()
        except Exception:  # it does not say: what it said before is not known to hold
            found = ()
        with self._lock:
            if not self._closed:
                self._services.append(found)
                os.eventfd_write(self._signal, 1)

    def _deliver(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._signal)
        if self._services:
            self._looking = False
            self._on_services(self._services.pop())
        while self._answers and not self._closed:  # an answer may end the screen
            on_answer, outcome = self._answers.popleft()
            self._under_way -= 1
            on_answer(outcome.done, sanitize(outcome.text))
