"""The client rule, against a server that breaks connections when told to: what is tried again, and what is seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

from chaos.catalogue import Entry
from chaos.http_door import HttpDoor
from chaos.outcome import Manners, Outcome, Request

ENTRY = Entry("x", "completions", {"model": "m", "prompt": "a"})
RESPONSE = "cmpl-1"


def event(number: int, text: str = "a") -> bytes:
    choice = {"index": 0, "text": text, "token_ids": [number]}
    return f"id: {RESPONSE}:{number}\ndata: {json.dumps({'choices': [choice]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\nx-request-id: cmpl-1\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """A body in chunks; without `end` the connection breaks in the middle of it."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


class Server:
    """Gives one answer after the other, byte for byte, and hangs up. Remembers the heads that it was sent."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.heads = answers, []  # type: tuple[list[bytes], list[str]]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "content-length: " in head:
            await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        self.heads.append(head)
        writer.write(self.answers.pop(0))
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def door(*answers: bytes) -> AsyncIterator[tuple[HttpDoor, Server]]:
    server = Server(list(answers))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    made = HttpDoor(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        yield made, server
    finally:
        await made.close()
        listening.close()


async def ask(made: HttpDoor, *, stream: bool = True, manners: Manners = "stay", after: int = 0) -> Outcome:
    request = Request(1, "x", "http", stream, manners, after)
    outcome = Outcome(request, time.monotonic())
    await made.make(request, ENTRY, outcome)
    return outcome


async def test_a_post_that_breaks_before_its_answer_is_sent_again() -> None:
    async with door(b"", CHUNKED + chunked(event(1), DONE)) as (made, server):
        outcome = await ask(made)
    assert outcome.complete
    assert outcome.resent == len(outcome.breaks) == 1
    assert [head.split()[0] for head in server.heads] == ["post", "post"]


async def test_a_stream_that_breaks_is_resumed_after_the_last_whole_event() -> None:
    half = chunked(event(1), event(2), event(3)[:-9], end=False)
    async with door(CHUNKED + half, CHUNKED + chunked(event(3), DONE)) as (made, server):
        outcome = await ask(made)
    assert outcome.complete
    assert outcome.answer.choices[0].tokens == [1, 2, 3]
    assert (outcome.resumed, outcome.resent, len(outcome.breaks), outcome.oddities) == (1, 0, 1, [])
    assert "get /v1/streams/cmpl-1 " in server.heads[1]
    assert "last-event-id: cmpl-1:2" in server.heads[1]


async def test_a_stream_that_nobody_has_is_an_error() -> None:
    gone = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"
    async with door(CHUNKED + chunked(event(1), end=False), gone) as (made, _):
        outcome = await ask(made)
    assert not outcome.complete
    assert "404 gone" in outcome.error


async def test_events_that_come_twice_or_not_at_all_are_seen() -> None:
    async with door(CHUNKED + chunked(event(1), event(1), event(4), DONE)) as (made, _):
        outcome = await ask(made)
    assert len(outcome.oddities) == 2


async def test_who_returns_hangs_up_once() -> None:
    answers = CHUNKED + chunked(event(1), event(2), event(3)), CHUNKED + chunked(event(3), DONE)
    async with door(*answers) as (made, server):
        outcome = await ask(made, manners="return", after=2)
    assert outcome.complete
    assert outcome.answer.choices[0].tokens == [1, 2, 3]
    assert (outcome.resumed, outcome.breaks, outcome.oddities) == (1, [], [])
    assert "x-resumable: true" in server.heads[0]


async def test_who_leaves_does_not_come_back() -> None:
    async with door(CHUNKED + chunked(event(1), event(2))) as (made, server):
        outcome = await ask(made, manners="leave", after=1)
    assert outcome.left
    assert not outcome.complete
    assert "x-resumable" not in server.heads[0]


async def test_a_refusal_is_not_tried_again() -> None:
    refused = b"HTTP/1.1 503 Unavailable\r\ncontent-length: 3\r\n\r\nno!"
    async with door(refused, CHUNKED) as (made, server):
        outcome = await ask(made, stream=False)
    assert "503 no!" in outcome.error
    assert len(server.heads) == 1


async def test_an_error_in_a_stream_is_an_error() -> None:
    async with door(CHUNKED + chunked(event(1), b'data: {"error": {"message": "sorry"}}\n\n')) as (made, _):
        outcome = await ask(made)
    assert "sorry" in outcome.error
