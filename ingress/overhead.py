"""What an ingress itself takes: CPU time of a call until it is handed over, and of each token on its way through.

A call's coroutine is driven by hand, so that only its own turns count and not what it waits for. Tokens come many at a
time and are text, journal and bytes in the turns of the loop that follow; what the loop did until then is theirs, other
calls' turns among it: so this is an upper bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

from bus.telemetry import Telemetry

T = TypeVar("T")

TURNS: Final = 3  # of the loop, until tokens have become events and those are at the socket


class Overhead:
    """The two histograms of a process.

    Args:
        clock: CPU time of the loop's thread, in nanoseconds.
    """

    def __init__(self, telemetry: Telemetry, clock: Callable[[], int] = time.thread_time_ns) -> None:
        self._clock = clock
        self._request = telemetry.histogram(
            "headrace_ingress_request_cpu_seconds",
            "CPU time of an ingress for a call, until a scheduler has it.",
        )
        self._token = telemetry.histogram(
            "headrace_ingress_token_cpu_seconds",
            "CPU time of an ingress for a token, from its scheduler to the socket.",
        )

    async def of_call(self, call: Coroutine[Any, Any, T]) -> T:
        """Await it, and count what it takes."""
        driven = _Driven(call, self._clock)
        try:
            return await driven
        finally:
            self._request.observe(driven.ns / 1e9)

    def of_tokens(self, count: int, begun_ns: int) -> None:
        """So many were taken in, which began at that time of the clock: count what the loop does with them."""
        loop = asyncio.get_running_loop()
        left = TURNS

        def turn() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_soon(turn)
            else:
                self._token.observe((self._clock() - begun_ns) / count / 1e9)

        loop.call_soon(turn)

    def now_ns(self) -> int:
        """Of the clock."""
        return self._clock()


class _Driven(Generic[T]):
    """A coroutine, and how long its turns take altogether."""

    __slots__ = ("_call", "_clock", "ns")

    def __init__(self, call: Coroutine[Any, Any, T], clock: Callable[[], int]) -> None:
        self._call, self._clock, self.ns = call, clock, 0

    def __await__(self) -> Generator[Any, Any, T]:
        turn, given = self._call.send, None
        while True:
            begun = self._clock()
            try:
                wanted = turn(given)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.ns += self._clock() - begun
            try:
                turn, given = self._call.send, (yield wanted)
            except GeneratorExit:
                self._call.close()
                raise
            except BaseException as error:
                turn, given = self._call.throw, error
