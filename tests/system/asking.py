"""Streams as a client reads them that means to have the whole answer, whoever dies; and what they took."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from chaos.answer import Answer, Json
from chaos.catalogue import Entry, Operation
from chaos.http_door import HttpDoor
from chaos.outcome import Outcome, Request

HEARD = 4  # tokens of a stream, after which it is in its middle


class Told(Answer):
    """An answer, and what is said beside it.

    Attributes:
        thought: text of the thinking before it.
        timing: of `include_timing`.
    """

    thought: str = ""
    timing: Json = msgspec.field(default_factory=dict)

    def chunk(self, body: Json) -> None:
        super().chunk(body)
        self.timing = body.get("headrace") or self.timing
        for choice in body["choices"]:
            self.thought += choice.get("delta", {}).get("reasoning_content") or ""


class Stream(Outcome):
    """How a stream went. `answer` is a `Told`."""

    @property
    def told(self) -> Told:
        """The answer, with what is said beside it."""
        assert isinstance(self.answer, Told)
        return self.answer

    @property
    def under_way(self) -> bool:
        """Whether some of it is there and not all."""
        return self.answer.tokens >= HEARD and not self.over

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.complete or bool(self.error)


@asynccontextmanager
async def door_of(url: str) -> AsyncIterator[HttpDoor]:
    """The shared port of a stack's ingresses."""
    door = HttpDoor(url)
    try:
        yield door
    finally:
        await door.close()


def stream() -> Stream:
    """One that has not begun."""
    return Stream(Request(0, "", "http", stream=True), time.monotonic(), answer=Told())


async def ask(door: HttpDoor, body: Json, into: Stream | None = None, operation: Operation = "completions") -> Stream:
    """Read a whole stream, from whoever has it; `into` grows with it."""
    into = into or stream()
    await door.make(into.request, Entry(body["model"], operation, body), into)
    return into
