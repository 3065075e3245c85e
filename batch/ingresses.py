"""The links to the ingresses: calls go out, answers come in. Which line a call is for is not known here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from batch.core.verdict import Outcome
from bus.identity import Identity
from bus.link import Link
from bus.messages.clients import Call, CallFailed, Cancel, Chunk, Forget, Operation, Reply, StreamEnd, ToClient
from bus.messages.common import Nack
from bus.names import CLIENTS_DOOR

SHUNNED_NS: Final = (
    2_000_000_000  # an ingress that sent us away is asked again after so long, or where no other is there
)
_STREAMED: Final = msgspec.json.encode(
    {"error": {"message": "A line is answered in one piece.", "type": "invalid_request_error", "param": "stream",
               "code": "unsupported_parameter"}}
)  # fmt: skip


class Ingresses:
    """All of them.

    Args:
        names: of the processes.
        on_answer: of a call.
        on_lost: calls that their ingress will not answer: whether it went on with them is not known.
        on_up: calls can be made (again).
    """

    def __init__(
        self,
        life: Identity,
        names: Sequence[str],
        *,
        on_answer: Callable[[int, Outcome], None],
        on_lost: Callable[[Sequence[int]], None],
        on_up: Callable[[], None],
    ) -> None:
        self._life = life
        self._on_answer, self._on_lost = on_answer, on_lost
        self._numbers = itertools.count(1)
        self._calls: dict[str, set[int]] = {name: set() for name in names}
        self._shunned_ns = dict.fromkeys(names, 0)
        self._links: dict[str, Link[Any]] = {
            name: Link(
                life, name, CLIENTS_DOOR, "clients", ToClient, on_message=partial(self._hear, name), on_up=on_up,
                on_down=partial(self._down, name),
            )
            for name in names
        }  # fmt: skip

    @property
    def up(self) -> int:
        """How many are there."""
        return sum(link.up for link in self._links.values())

    def call(self, operation: Operation, body: bytes, once: str, behalf: str) -> int | None:
        """Ask the one that has least of ours; the call's number. None where none is there."""
        now_ns = self._life.loop.now_ns()
        up = [name for name, link in self._links.items() if link.up]
        if not up:
            return None
        name = min(up, key=lambda name: (now_ns < self._shunned_ns[name], len(self._calls[name])))
        number = next(self._numbers)
        self._calls[name].add(number)
        if self._links[name].send(Call(number, operation, body, once=once, behalf=behalf)):
            return number
        self._calls[name].discard(number)
        return None

    def cancel(self, number: int) -> None:
        """An answer is not wanted, and its work shall end."""
        for name, calls in self._calls.items():
            if number in calls:
                calls.discard(number)
                self._links[name].send(Cancel(number))

    def forget(self, responses: Sequence[str]) -> None:
        """Answers that are written down here. Whoever does not hear it keeps them for a while."""
        for link in self._links.values():
            link.send(Forget(tuple(responses)))

    def close(self) -> None:
        """Leave; what is under way is asked for again by whoever comes next."""
        for link in self._links.values():
            link.close()

    def _down(self, name: str, reason: str) -> None:
        if reason == "draining":
            self._shunned_ns[name] = self._life.loop.now_ns() + SHUNNED_NS
        calls, self._calls[name] = self._calls[name], set()
        if calls:
            self._on_lost(sorted(calls))

    def _hear(self, name: str, message: Reply | CallFailed | Chunk | StreamEnd | Nack) -> None:
        match message:
            case Reply(call, body):
                outcome = Outcome(200, body)
            case CallFailed(call, status, body, retry_after_s):
                outcome = Outcome(status, body, retry_after_s)
            case StreamEnd(call):
                outcome = Outcome(400, _STREAMED)
            case _:  # an event of a stream, which was not asked for; or a message was refused, and a bye follows
                return
        if call in self._calls[name]:
            self._calls[name].discard(call)
            self._on_answer(call, outcome)
