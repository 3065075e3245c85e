"""Asking the metrics process from a command, blocking: one question, one answer, a deadline."""

from __future__ import annotations

import time
from typing import Any, Final, TypeVar

import msgspec

from bus.link import Link
from bus.messages.observe import GetSnapshot, Snapshot, ToObserver
from bus.messages.usage import GetUsage, UsageReply
from bus.names import METRICS, OBSERVE_DOOR
from cli.control import Caller, Unreachable, running_names

TIMEOUT_S: Final = 10.0

Reply = TypeVar("Reply", Snapshot, UsageReply)


def ask(caller: Caller, question: GetSnapshot | GetUsage, kind: type[Reply], timeout_s: float = TIMEOUT_S) -> Reply:
    """One answer.

    Raises:
        Unreachable: metrics does not run, or does not answer in time.
    """
    visitor = caller.visitor
    if METRICS not in running_names(visitor.run):
        raise Unreachable(f"{METRICS} does not run here (run directory {visitor.run})")
    answers: list[Reply] = []

    def hear(message: msgspec.Struct) -> None:
        if isinstance(message, kind):
            answers.append(message)

    link: Link[Any] = Link(visitor, METRICS, OBSERVE_DOOR, "observe", ToObserver, on_message=hear)
    try:
        deadline, sent = time.monotonic() + timeout_s, False
        while not answers and not link.refusal and (left := deadline - time.monotonic()) > 0:
            sent = sent or link.send(question)
            caller.turn(min(left, 0.05))
        if not answers:
            raise Unreachable(f"{METRICS}: {link.refusal or f'no answer within {timeout_s:.0f} s'}")
        return answers[0]
    finally:
        link.close()
