"""A call that is made at the other ingresses of this host, in the name of a client: for what only one of them has."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bus.link import Link
from bus.messages.clients import Call, CallFailed, Operation, Reply, ToClient
from bus.names import CLIENTS_DOOR
from bus.process import Life
from ingress.siblings import error_of, guest, siblings

PATIENCE_S: Final = 2.0
_CALL: Final = 1


async def ask(life: Life, operation: Operation, body: bytes, authorization: str) -> bytes | None:
    """The answer of the ingress that has one; None where none has, or says so in time.

    Raises:
        ApiError: one has what is meant, and refuses.
    """
    asked = [_Asked(life, name, Call(_CALL, operation, body, authorization)) for name in siblings(life)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            for answer in asyncio.as_completed([each.answer for each in asked]):
                if (reply := await answer) is not None:
                    return reply
    except TimeoutError:
        pass
    finally:
        for each in asked:
            each.close()
    return None


class _Asked:
    """One of them. `answer` is None where it does not have it, or is gone."""

    def __init__(self, life: Life, sibling: str, call: Call) -> None:
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._call = call
        self._link: Link[Any] = Link(
            guest(life), sibling, CLIENTS_DOOR, "clients", ToClient,
            on_message=self._hear, on_up=self._ask, on_down=lambda _: self._is(None),
        )  # fmt: skip

    def close(self) -> None:
        self.answer.cancel()
        self._link.close()

    def _ask(self) -> None:
        self._link.send(self._call)

    def _hear(self, message: Any) -> None:
        match message:
            case Reply():
                self._is(message.body)
            case CallFailed() if message.status != 404 and not self.answer.done():
                self.answer.set_exception(error_of(message))
            case _:
                self._is(None)

    def _is(self, reply: bytes | None) -> None:
        if not self.answer.done():
            self.answer.set_result(reply)
