"""What an event of an upstream says, in the words of this server. Structs only."""

from __future__ import annotations

from typing import NamedTuple

from ingress.streams import EndReason, Part, TokenText


class Counted(NamedTuple):
    """Tokens, as an upstream says; None is what it does not say."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class Heard(NamedTuple):
    """One event.

    Attributes:
        reason: how the answer ended, where it did; `stop` is the string that ended it.
        counted: the account, where one is told.
        over: nothing follows.
    """

    parts: tuple[Part, ...] = ()
    logprobs: tuple[TokenText, ...] = ()
    reason: EndReason | None = None
    stop: str | None = None
    counted: Counted | None = None
    over: bool = False


NOTHING = Heard()


class Garbage(ValueError):
    """What an upstream sends is not what it should be. The message says how; it holds nothing of what was sent."""


class Unreachable(OSError):
    """It cannot be spoken with, or hung up. The message is for the operator's log."""


class Complaint(Exception):
    """An upstream says in its stream that it cannot go on. `kind` is its word for why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message
