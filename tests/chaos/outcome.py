"""What came of one request: everything that the checker and the report want to know, and no judgement."""

from __future__ import annotations

from typing import Literal

import msgspec

from chaos.answer import Answer

Door = Literal["http", "zmq"]

# stay     read to the end
# return   a stream: hang up after `after` events, come back and read the rest
# leave    a stream: hang up after `after` events for good; another call: hang up while waiting
Manners = Literal["stay", "return", "leave"]


class Request(msgspec.Struct, frozen=True):
    """One request of the load: number in its slice, entry of the catalogue, and how it is made."""

    number: int
    entry: str
    door: Door
    stream: bool
    manners: Manners = "stay"
    after: int = 0


class Outcome(msgspec.Struct):
    """How it went.

    Attributes:
        answer: as far as it came.
        complete: the server said that it was whole.
        left: the client went away on purpose before.
        error: what ended it otherwise; empty where nothing did.
        response: id of the response, for finding it in logs.
        started, ended: CLOCK_MONOTONIC, seconds.
        times: when events came.
        breaks: when a connection broke that nobody on this side had closed.
        resent: how often it was posted again, its connection having broken before anything was answered.
        resumed: how often the rest of its stream was fetched.
        oddities: what may never be, seen on the way: events out of order, words after the end.
    """

    request: Request
    started: float
    ended: float = 0.0
    answer: Answer = msgspec.field(default_factory=Answer)
    complete: bool = False
    left: bool = False
    error: str = ""
    response: str = ""
    times: list[float] = []
    breaks: list[float] = []
    resent: int = 0
    resumed: int = 0
    oddities: list[str] = []
