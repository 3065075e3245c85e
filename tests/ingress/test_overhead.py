"""What an ingress takes itself is counted, and what it waits for is not."""

from __future__ import annotations

import asyncio

import pytest

from bus.telemetry import Telemetry
from ingress.overhead import Overhead


class Clock:
    """CPU time that passes when somebody works."""

    def __init__(self) -> None:
        self.ns = 0

    def work(self, us: int) -> None:
        self.ns += us * 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seen(telemetry: Telemetry, name: str) -> tuple[int, float]:
    """How often it was observed, and the sum in microseconds."""
    histogram = telemetry.histogram(name, "")
    return sum(histogram.counts), round(histogram.total * 1e6, 3)


async def test_waiting_and_others_work_do_not_count(clock: Clock) -> None:
    telemetry = Telemetry()
    overhead = Overhead(telemetry, lambda: clock.ns)

    async def call() -> str:
        clock.work(100)
        await asyncio.sleep(0.01)
        clock.work(20)
        await asyncio.gather(other(), asyncio.sleep(0))
        clock.work(3)
        return "done"

    async def other() -> None:
        clock.work(10_000)

    assert await overhead.of_call(call()) == "done"
    assert seen(telemetry, "headrace_ingress_request_cpu_seconds") == (1, 123.0)


async def test_errors_and_cancelling_go_through(clock: Clock) -> None:
    telemetry = Telemetry()
    overhead = Overhead(telemetry, lambda: clock.ns)
    cleaned = []

    async def fails() -> None:
        clock.work(5)
        raise KeyError("x")

    async def waits() -> None:
        clock.work(7)
        try:
            await asyncio.Event().wait()
        finally:
            clock.work(11)
            cleaned.append(True)

    with pytest.raises(KeyError, match="x"):
        await overhead.of_call(fails())
    task = asyncio.ensure_future(overhead.of_call(waits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]
    assert seen(telemetry, "headrace_ingress_request_cpu_seconds") == (2, 23.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await overhead.of_call(waits())


async def test_tokens_share_what_the_loop_does_with_them(clock: Clock) -> None:
    telemetry = Telemetry()
    overhead = Overhead(telemetry, lambda: clock.ns)
    begun_ns = overhead.now_ns()
    clock.work(10)
    overhead.of_tokens(4, begun_ns)
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: (clock.work(20), loop.call_soon(lambda: clock.work(30))))
    await asyncio.sleep(0.01)
    assert seen(telemetry, "headrace_ingress_token_cpu_seconds") == (1, 15.0)
