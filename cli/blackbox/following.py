"""Which recorded messages concern which request. Pure.

Messages between scheduler and worker name slots: a slot belongs to the request that a plan opened it for, until a plan
closes it. So moments must come in order, from the beginning of a recording.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bus.blackbox.reading import Moment
from bus.messages.requests import Deltas
from bus.messages.steps import Reset, StepFailed, StepPlan, StepResult
from bus.packed import unpack_u32, unpack_u64


class BadRequestId(ValueError):
    """Not a request's id; the message says what is one."""


def request_numbers(text: str) -> frozenset[int]:
    """The numbers that an id may mean: `chatcmpl-6d18ea135df1772d` of an answer, its hexadecimal digits, or a number as
    screens and logs show it.

    Raises:
        BadRequestId: none of these.
    """
    found: set[int] = set()
    if re.fullmatch(r"(?:[a-z]+[-_]|0x)?[0-9a-f]{16}", text):
        found.add(int(text[-16:], 16))
    if re.fullmatch(r"[0-9]{1,19}", text):
        found.add(int(text))
    if not found:
        raise BadRequestId(f"{text!r} is no request: give the id of an answer (chatcmpl-6d18ea135df1772d) or a number")
    return frozenset(found)


class Follower:
    """Of one recording."""

    def __init__(self) -> None:
        self._slots: dict[str, dict[int, int]] = {}  # request by slot, of each peer

    def concerned(self, moment: Moment) -> frozenset[int]:
        """The requests that a message is about. Call it for each moment, in order."""
        message = moment.message
        if message is None:
            return frozenset()
        try:
            return frozenset(self._concerned(moment.peer, message))
        except ValueError:  # arrays that are none: recorded as they came
            return frozenset()

    def _concerned(self, peer: str, message: Any) -> Iterator[int]:
        slots = self._slots.setdefault(peer, {})
        match message:
            case StepPlan():
                for slot in unpack_u32(message.closes).tolist():
                    if (closed := slots.pop(slot, None)) is not None:
                        yield closed
                for opened in message.opens:
                    slots[opened.slot] = opened.request
                    yield opened.request
                yield from (slots[slot] for slot in unpack_u32(message.slots).tolist() if slot in slots)
            case StepResult() | StepFailed():
                yield from (slots[slot] for slot in unpack_u32(message.slots).tolist() if slot in slots)
            case Reset():
                slots.clear()
            case Deltas():
                yield from unpack_u64(message.requests).tolist()
                yield from (finished.request for finished in message.finished)
            case _ if isinstance(request := getattr(message, "request", None), int):
                yield request
