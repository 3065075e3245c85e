"""The link to the accounts process: the directory comes in, leases are asked for and given back, settlements go out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from bus.identity import Identity
from bus.link import Link
from bus.messages.accounts import Ask, Directory, Follow, FromAccounts, Granted, Line, Recall, Settle, Settled
from bus.names import ACCOUNTS, LEASES_DOOR

ASKS_AT_ONCE: Final = 2000  # lines of one message


class AccountsLink:
    """A connection to `accounts@host`.

    Args:
        lines: what there is to say; whatever is touched when a message goes out goes with it.
        follow: which directory is here.
        on_directory, on_granted, on_recall, on_settled: what comes.
        on_up, on_down: the process is there (again), or gone.
    """

    def __init__(
        self,
        life: Identity,
        *,
        lines: Callable[[], tuple[Line, ...]],
        follow: Callable[[], Follow],
        on_directory: Callable[[Directory], None],
        on_granted: Callable[[Granted], None],
        on_recall: Callable[[Recall], None],
        on_settled: Callable[[Settled], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self._life, self._lines, self._follow = life, lines, follow
        self._hearers: dict[type, Callable[[Any], None]] = {
            Directory: on_directory, Granted: on_granted, Recall: on_recall, Settled: on_settled,
        }  # fmt: skip
        self._on_up, self._on_down = on_up, on_down
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._next: asyncio.Future[None] | None = None  # of the question that goes out in this turn of the loop
        self._link: Link[Any] = Link(
            life, ACCOUNTS, LEASES_DOOR, "accounts", FromAccounts, on_message=self._hear, on_up=self._begin,
            on_down=self._lost,
        )  # fmt: skip

    @property
    def up(self) -> bool:
        """Whether the process is there."""
        return self._link.up

    def ask(self) -> asyncio.Future[None]:
        """Say what is touched, with all others that ask in this turn of the loop. Done when that is answered, or the
        process is gone."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._life.loop.soon(self._send)
        return self._next

    def say(self, lines: tuple[Line, ...], answer: asyncio.Future[None] | None = None) -> None:
        """Say it now."""
        for start in range(0, len(lines), ASKS_AT_ONCE):
            last = start + ASKS_AT_ONCE >= len(lines)
            number = next(self._numbers)
            if self._link.send(Ask(number, lines[start : start + ASKS_AT_ONCE])) and last and answer is not None:
                self._answers[number] = answer
                return
        if answer is not None and not answer.done():
            answer.set_result(None)

    def settle(self, message: Settle) -> bool:
        """False where the process is not there."""
        return self._link.send(message)

    def close(self) -> None:
        """Leave."""
        self._link.close()

    def _send(self) -> None:
        answer, self._next = self._next, None
        self.say(self._lines(), answer)

    def _begin(self) -> None:
        self._link.send(self._follow())
        self._on_up()

    def _lost(self, reason: str) -> None:  # noqa: ARG002 (the link's interface)
        answers, self._answers = self._answers, {}
        self._on_down()
        for answer in answers.values():
            if not answer.done():
                answer.set_result(None)

    def _hear(self, message: Any) -> None:
        if (hearer := self._hearers.get(type(message))) is not None:
            hearer(message)
        if isinstance(message, Granted):
            answer = self._answers.pop(message.number, None)
            if answer is not None and not answer.done():
                answer.set_result(None)
