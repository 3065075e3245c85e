"""Streams that live at another ingress of this host: the port is shared, so a client that comes back may land anywhere.

Who does not have a stream asks the others, over their clients' doors, as a client would. They don't ask further.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, Final

import msgspec

from bus.identity import Visitor
from bus.link import Link
from bus.messages.clients import CallFailed, Cancel, Chunk, Resume, StreamEnd, ToClient
from bus.messages.common import Nack
from bus.names import CLIENTS_DOOR
from bus.process import Life
from ingress.api.elsewhere import Lost
from ingress.api.events import Hear
from ingress.errors import ApiError

PATIENCE_S: Final = 1.0
_CALL: Final = 1


class RemoteStream:
    """A stream at a sibling, read through this process."""

    def __init__(self, life: Life, sibling: str, response: str, authorization: str, after: int) -> None:
        self.response = response
        self.listeners = 0
        self.verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.up = False
        self._loop = life.loop
        self.refusal: ApiError | None = None  # it is there, and this cannot be done with it
        self._last = after  # number of the newest event
        self._lost = ""  # why nothing more will come
        self._events: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()  # bounded by the sibling's replay
        self._resume = Resume(_CALL, response, after, authorization)
        self._link: Link[Any] = Link(
            guest(life),
            sibling,
            CLIENTS_DOOR,
            "clients",
            ToClient,
            on_message=self._hear,
            on_up=self._ask,
            on_down=self._down,
        )

    def attach(self) -> None:
        """Somebody listens."""
        self.listeners += 1

    def detach(self, now_ns: int) -> None:  # noqa: ARG002 (the same as a replay's)
        """... and has gone. The sibling notices that the link closes, and keeps the stream for its grace."""
        self.listeners -= 1
        self._loop.soon(self.close)  # after an `abandon` that may follow

    def abandon(self) -> None:
        """Not wanted any more."""
        self._link.send(Cancel(_CALL))

    async def follow(self, event: int, hear: Hear) -> bool:
        """All events after number `event`; see `Events`.

        Raises:
            Lost: the sibling is gone before the stream was complete.
        """
        while (found := await self._events.get()) is not None:
            if found[0] > event and not hear(*found):
                return False
        if self._lost:
            raise Lost(self._lost)
        return True

    def close(self) -> None:
        """Leave the sibling."""
        self._link.close()

    def _ask(self) -> None:
        self.up = True
        self._link.send(self._resume)

    def _hear(self, message: Chunk | StreamEnd | CallFailed | Nack) -> None:
        match message:
            case Chunk():
                self._last = message.event
                self._events.put_nowait((message.event, message.body))
                self._decide(True)
            case StreamEnd():
                self._events.put_nowait(None)
                self._decide(True)
            case CallFailed() if message.status == 404:
                self._decide(False)
            case CallFailed() if not self.verdict.done():
                self.refusal = error_of(message)
                self._decide(True)
            case CallFailed():
                self._events.put_nowait((self._last + 1, message.body))
                self._events.put_nowait(None)
            case _:
                self._decide(False)

    def _down(self, reason: str) -> None:
        self._decide(False)
        self._lost = reason
        self._events.put_nowait(None)

    def _decide(self, here: bool) -> None:
        if not self.verdict.done():
            self.verdict.set_result(here)


def guest(life: Life) -> Visitor:
    """This process under a name of its own: a door knows one connection of a name, and every stream has its own."""
    guest = Visitor("ingress", life.loop, life.run)
    guest.context = life.context
    return guest


async def find(life: Life, response: str, authorization: str, after: int) -> RemoteStream | None:
    """The stream at whichever other ingress of this run directory has it.

    Raises:
        ApiError: one has it, and refuses.
    """
    asked = [RemoteStream(life, name, response, authorization, after) for name in siblings(life)]
    found: RemoteStream | None = None
    try:
        found = await _first(asked)
        if found is not None and found.refusal is not None:
            raise found.refusal
    finally:
        for stream in asked:
            if stream is not found or stream.refusal is not None:
                stream.close()
    return found


def siblings(life: Life) -> list[str]:
    """The other ingresses of this run directory."""
    doors = filter(_listens, life.run.glob(f"ingress@*.{CLIENTS_DOOR}.sock"))
    return sorted({door.name.removesuffix(f".{CLIENTS_DOOR}.sock") for door in doors} - {life.name})


def _listens(door: Path) -> bool:
    """Whether anybody does: a socket's file outlives its process, and who waits for an answer there waits in vain."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(door))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


async def _first(asked: list[RemoteStream]) -> RemoteStream | None:
    by_verdict = {stream.verdict: stream for stream in asked}
    pending: set[asyncio.Future[bool]] = set(by_verdict)
    until = asyncio.get_running_loop().time() + PATIENCE_S
    while pending and (left := until - asyncio.get_running_loop().time()) > 0:
        done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for verdict in done:
            if verdict.result():
                return by_verdict[verdict]
    # Who took the question and says nothing has the stream, and nothing in it yet.
    return next((by_verdict[verdict] for verdict in pending if by_verdict[verdict].up), None)


def error_of(failed: CallFailed) -> ApiError:
    """What a sibling's refusal is here."""
    detail = msgspec.json.decode(failed.body)["error"]
    return ApiError(failed.status, detail["type"], detail["message"], code=detail["code"], param=detail["param"])
