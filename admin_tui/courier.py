"""Carries an order to a control door and brings the answer. One conversation an order; no decisions."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Final

from admin_tui.actions import Errand, Order, Refusal, errand
from admin_tui.text import sanitize
from bus.identity import Identity, Visitor
from bus.link import Link
from bus.messages.common import Nack
from bus.messages.control import FromProcess, Ok, Rejected
from bus.names import CONTROL_DOOR

ANSWER_S: Final = 5.0

OnAnswer = Callable[[bool, str], None]


class Courier:
    """Gives orders on behalf of `identity`."""

    def __init__(self, identity: Visitor) -> None:
        self._identity = identity
        self._rids = itertools.count(1)
        self._open: set[_Conversation] = set()

    def give(self, order: Order, on_answer: OnAnswer, *, supervised: bool) -> None:
        """Give an order; `on_answer(done, text)` is called once, here or later on the loop."""
        rid = next(self._rids)
        what = errand(order, rid, supervised=supervised)
        if isinstance(what, Refusal):
            on_answer(False, what.reason)
            return

        def ended(done: bool, text: str) -> None:
            self._open.discard(conversation)
            on_answer(done, text)

        # A name is one connection at a door: under the feed's own name this one would take its place.
        messenger = copy.copy(self._identity)
        messenger.name = f"{self._identity.name}-{rid}"
        conversation = _Conversation(messenger, what, ended)
        self._open.add(conversation)

    def close(self) -> None:
        """Give up on what is still open; nobody is called."""
        for conversation in self._open:
            conversation.close()
        self._open.clear()


class _Conversation:
    """Hello, the message once, its answer or the deadline, bye."""

    def __init__(self, identity: Identity, what: Errand, on_answer: OnAnswer) -> None:
        self._what, self._on_answer = what, on_answer
        self._sent = False
        self._link: Link[FromProcess] = Link(
            identity, what.door_of, CONTROL_DOOR, "control", FromProcess,
            on_message=self._on_message, on_up=self._on_up, on_down=self._on_down,
        )  # fmt: skip
        self._stop_waiting = identity.loop.after(ANSWER_S, self._too_late)

    def close(self) -> None:
        self._stop_waiting()
        self._link.close()

    def _on_up(self) -> None:
        if not self._sent:  # a door that went and came back may have obeyed already: the operator looks
            self._sent = self._link.send(self._what.message)

    def _on_message(self, message: FromProcess) -> None:
        rid = self._what.message.rid
        if isinstance(message, Ok) and message.rid == rid:
            self._end(True, message.detail)
        elif isinstance(message, Rejected) and message.rid == rid:
            self._end(False, message.reason)
        elif isinstance(message, Nack):
            self._end(False, message.detail)

    def _on_down(self, reason: str) -> None:
        if self._sent:
            self._end(False, f"{self._what.door_of} went before it answered ({reason})")

    def _too_late(self) -> None:
        said = "does not answer" if self._sent else "cannot be reached"
        self._end(False, f"{self._what.door_of} {said}")

    def _end(self, done: bool, text: str) -> None:
        self.close()
        self._on_answer(done, sanitize(text))
