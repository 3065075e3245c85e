"""A loop whose time is made, a host on it, and ingresses that answer when they are told to, as the real ones do: a key
that was answered has that answer, whoever asks again."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

import msgspec

from batch.core.verdict import Outcome
from bus.loop import Callback, Cancel
from bus.messages.clients import Operation
from bus.messages.common import ProcessState
from bus.releases import Troubles
from bus.telemetry import Telemetry


class MadeLoop:
    """Turns when it is told to."""

    def __init__(self) -> None:
        self._now_ns = 1_000_000_000
        self._timers: list[tuple[int, int, Callback]] = []
        self._numbers = itertools.count()
        self._off: set[int] = set()

    def now_ns(self) -> int:
        return self._now_ns

    def add_reader(self, fd: int, callback: Callback) -> None:
        raise NotImplementedError

    def remove_reader(self, fd: int) -> None:
        raise NotImplementedError

    def soon(self, callback: Callback) -> None:
        self.after(0.0, callback)

    def after(self, seconds: float, callback: Callback) -> Cancel:
        number = next(self._numbers)
        heapq.heappush(self._timers, (self._now_ns + int(seconds * 1e9), number, callback))
        return lambda: self._off.add(number)

    def every(self, seconds: float, callback: Callback) -> Cancel:
        raise NotImplementedError

    def turn(self, seconds: float) -> None:
        """So much time goes by."""
        until_ns = self._now_ns + int(seconds * 1e9)
        while self._timers and self._timers[0][0] <= until_ns:
            at_ns, number, callback = heapq.heappop(self._timers)
            self._now_ns = max(self._now_ns, at_ns)
            if number not in self._off:
                callback()
        self._now_ns = until_ns


class MadeHost:
    """A process on such a loop."""

    def __init__(self) -> None:
        self.loop = MadeLoop()
        self.state: ProcessState = "ready"
        self.telemetry = Telemetry()
        self.troubles = Troubles()

    def progressed(self, units: int = 1) -> None:
        pass


class Ingresses:
    """What outlives every batch process: answers by key.

    Attributes:
        answers: that were computed, by key; one that was said to be written down is kept no longer.
        answered: keys whose answers were computed, each as often as it was.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Outcome] = {}
        self.answered: list[str] = []
        self.forgotten: set[str] = set()

    def answer(self, once: str, body: bytes) -> Outcome:
        """The one answer of a key."""
        if once not in self.answers:
            self.answered.append(once)
            self.answers[once] = Outcome(200, msgspec.json.encode({"id": f"id of {once}", "echo": msgspec.Raw(body)}))
        return self.answers[once]

    def fail(self, once: str, outcome: Outcome) -> Outcome:
        """It fails, and so does whoever asks again with this key; a refusal is not kept."""
        if once in self.answers:
            return self.answers[once]
        if outcome.status in (429, 503):
            return outcome
        self.answers[once] = outcome
        return outcome


class Way:
    """The way of one batch process to them.

    Attributes:
        calls: that are not answered: number, key and body.
        up: how many ingresses are there.
    """

    def __init__(
        self,
        ingresses: Ingresses,
        *,
        on_answer: Callable[[int, Outcome], None],
        on_lost: Callable[[Sequence[int]], None],
        on_up: Callable[[], None],
    ) -> None:
        self.ingresses, self.on_answer, self.on_lost, self.on_up = ingresses, on_answer, on_lost, on_up
        self.calls: dict[int, tuple[str, bytes, str]] = {}
        self.up = 1
        self._numbers = itertools.count(1)

    def call(self, operation: Operation, body: bytes, once: str, behalf: str) -> int | None:
        assert operation == "chat.completions"
        assert all(once != other for other, _, _ in self.calls.values()), f"{once} is asked for twice at once"
        if not self.up:
            return None
        number = next(self._numbers)
        self.calls[number] = once, body, behalf
        return number

    def cancel(self, number: int) -> None:
        self.calls.pop(number, None)

    def forget(self, responses: Sequence[str]) -> None:
        for response in responses:
            once = response.removeprefix("id of ")
            self.ingresses.answers.pop(once, None)
            self.ingresses.forgotten.add(once)

    def close(self) -> None:
        self.calls.clear()
