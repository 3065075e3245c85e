"""The way to the batch process: files and batches are its, who may have them is found out here.

Whatever was not answered when it died is said again when it is back; all of it can be (`bus.messages.batches`).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bus.identity import Identity
from bus.link import Link
from bus.messages.batches import Answered, Ask, Complete, Discard, FromBatch, Part, Piece, Read, Taken, Whose
from bus.messages.clients import Operation
from bus.names import BATCH, BATCHES_DOOR
from ingress.errors import ApiError

PATIENCE_S: Final = 10.0  # for the process to be there, and to answer: a restart takes one
COMPLETE_S: Final = 120.0  # for a file to be on the disk
MAX_WAITING: Final = 256  # questions at once: each may hold a part of a file
RETRY_S: Final = 2.0

_Answer = Answered | Taken | Piece
_Question = Ask | Part | Complete | Read


class BatchLink:
    """A connection to `batch@host`."""

    def __init__(self, life: Identity) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[_Question, asyncio.Future[_Answer]]] = {}
        self._link: Link[Any] = Link(
            life, BATCH, BATCHES_DOOR, "batches", FromBatch, on_message=self._hear, on_up=self._again
        )

    def close(self) -> None:
        """Leave."""
        for _, answer in self._waiting.values():
            answer.cancel()
        self._link.close()

    async def ask(self, operation: Operation, body: bytes, whose: Whose, number: str) -> bytes:
        """The JSON of an answer.

        Raises:
            ApiError: what the batch process says; 503, it does not answer.
        """
        answer = await self._asked(lambda rid: Ask(rid, whose, operation, body, number))
        assert isinstance(answer, Answered)
        return answer.body

    async def take(self, whose: Whose, upload: str, offset: int, data: bytes) -> None:
        """A part of an upload.

        Raises:
            ApiError: see `ask`.
        """
        await self._asked(lambda rid: Part(rid, whose, upload, offset, data))

    async def complete(self, whose: Whose, upload: str, number: str, filename: str, purpose: str, ttl_s: int) -> bytes:
        """An upload becomes a file: its JSON.

        Raises:
            ApiError: see `ask`.
        """
        answer = await self._asked(
            lambda rid: Complete(rid, whose, upload, number, filename, purpose, ttl_s),
            COMPLETE_S if self._link.up else PATIENCE_S,
        )
        assert isinstance(answer, Answered)
        return answer.body

    def discard(self, upload: str) -> None:
        """An upload will not go on. Where that is not heard, it is forgotten after a while."""
        self._link.send(Discard(upload))

    async def read(self, whose: Whose, file: str, offset: int, most: int) -> Piece:
        """A part of a file.

        Raises:
            ApiError: see `ask`.
        """
        answer = await self._asked(lambda rid: Read(rid, whose, file, offset, most))
        assert isinstance(answer, Piece)
        return answer

    async def _asked(self, make: Callable[[int], _Question], patience_s: float = PATIENCE_S) -> _Answer:
        if len(self._waiting) >= MAX_WAITING:
            raise unavailable("Too many files are being sent at once.")
        rid = next(self._numbers)
        question, future = make(rid), asyncio.get_running_loop().create_future()
        self._waiting[rid] = question, future
        self._link.send(question)  # where it is not there, it is told when it is
        try:
            async with asyncio.timeout(patience_s):
                answer: _Answer = await future
        except TimeoutError:
            raise unavailable(f"{BATCH} does not answer.") from None
        finally:
            del self._waiting[rid]
        if isinstance(answer, Answered) and answer.status != 200:
            raise _refusal(answer)
        return answer

    def _again(self) -> None:
        for question, _ in tuple(self._waiting.values()):
            self._link.send(question)

    def _hear(self, message: Any) -> None:
        if isinstance(message, Answered | Taken | Piece):
            _, future = self._waiting.get(message.rid, (None, None))
            if future is not None and not future.done():
                future.set_result(message)


def unavailable(message: str) -> ApiError:
    """503: files and batches are out of reach for now."""
    return ApiError(503, "service_unavailable_error", message, code="batches_unavailable", retry_after_s=RETRY_S)


def new_number() -> str:
    """Of something that is made once."""
    return secrets.token_hex(16)


def _refusal(answer: Answered) -> ApiError:
    error: dict[str, Any] = msgspec.json.decode(answer.body)["error"]
    return ApiError(
        answer.status, error["type"], error["message"], code=error["code"], param=error["param"],
        retry_after_s=answer.retry_after_s or None,
    )  # fmt: skip
