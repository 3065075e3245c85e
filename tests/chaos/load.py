"""Which requests are made, and so many of them at a time until it is told to stop. The same seed draws the same ones.

How requests fall in with each other and with kills is up to the machine: that is the part that must not matter.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from chaos.catalogue import Entry
from chaos.http_door import HttpDoor
from chaos.outcome import Door, Outcome, Request
from chaos.zmq_door import ZmqDoor

_REST_S: Final = 1.0  # of a client that was refused
DEADLINE_S: Final = 180.0  # for one request, whatever happens meanwhile


def requests(entries: list[Entry], seed: int) -> Iterator[Request]:
    """Without end: each entry in turn in a shuffled order, by a door and with manners that are drawn."""
    draw, number = Random(seed), 0
    while True:
        for entry in draw.sample(entries, len(entries)):
            number += 1
            door: Door = "http" if draw.random() < 0.65 else "zmq"
            stream = entry.streams and draw.random() < 0.7
            manners, after = draw.random(), draw.randint(1, 12)
            if manners < 0.1:
                yield Request(number, entry.name, door, stream, "leave", after)
            elif manners < 0.3 and stream and door == "http":
                yield Request(number, entry.name, door, stream, "return", after)
            else:
                yield Request(number, entry.name, door, stream)


class Load:
    """Clients at work. Use as an async context manager: entering starts them, leaving waits for what is under way.

    Attributes:
        outcomes: of the requests that are over.
        open: of those under way.
    """

    def __init__(self, url: str, run: Path, entries: list[Entry], seed: int, concurrency: int) -> None:
        self.outcomes: list[Outcome] = []
        self.open: dict[int, Outcome] = {}
        self._entries = {entry.name: entry for entry in entries}
        self._requests = requests(entries, seed)
        self._doors: dict[Door, HttpDoor | ZmqDoor] = {"http": HttpDoor(url), "zmq": ZmqDoor(run)}
        self._wanted = asyncio.Event()
        self._closing = False
        self._clients = [asyncio.create_task(self._client()) for _ in range(concurrency)]

    def begin(self) -> None:
        """Make requests, one after the other in each client."""
        self._wanted.set()

    def pause(self) -> None:
        """No new ones; what is under way goes on."""
        self._wanted.clear()

    def flow(self, since: float) -> int:
        """How many events have come since a moment."""
        outcomes = (*self.open.values(), *(outcome for outcome in self.outcomes if outcome.ended > since))
        return sum(len(outcome.times) - bisect(outcome.times, since) for outcome in outcomes)

    async def quiet(self) -> None:
        """Wait until nothing is under way. Every request has a deadline, so this ends."""
        while self.open:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """The end. Nothing may be under way."""
        self._closing = True
        self._wanted.set()
        await asyncio.gather(*self._clients)
        for door in self._doors.values():
            await door.close()

    async def _client(self) -> None:
        while True:
            await self._wanted.wait()
            if self._closing:
                return
            request = next(self._requests)
            outcome = self.open[request.number] = Outcome(request, time.monotonic())
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await self._doors[request.door].make(request, self._entries[request.entry], outcome)
            except TimeoutError:
                outcome.error = f"not answered within {DEADLINE_S:.0f} s"
            except Exception as error:
                outcome.error = f"the harness failed: {error!r}"
                raise
            finally:
                outcome.ended = time.monotonic()
                self.outcomes.append(self.open.pop(request.number))
            if outcome.error:
                await asyncio.sleep(_REST_S)
