"""What an operator can do: the order, the message and the door that it goes to. Pure: `courier` carries it out.

Whom it hits, and so what the dialog says, is in `blast`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from admin_tui.text import request_id
from bus.messages.control import (
    Acknowledge,
    CancelRequest,
    Drain,
    LimitValues,
    Reload,
    Restart,
    SetLimits,
    Silence,
    Undrain,
)
from bus.names import METRICS, SUPERVISOR, scheduler_name

Verb = Literal["drain", "undrain", "restart", "kill", "cancel", "limit", "reload", "acknowledge", "silence"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
DRAIN_S: Final = 120.0
SILENCE_S: Final = 3600.0
ControlMessage = Drain | Undrain | Restart | CancelRequest | SetLimits | Reload | Acknowledge | Silence


class Order(NamedTuple):
    """Do this to that.

    Attributes:
        target: a process; for "cancel" and "limit" a model; for "acknowledge" and "silence" what the finding is about.
        request: for "cancel".
        reason: the operator's own words, for the audit log and for who comes after.
        seconds: a drain's or a restart's deadline, a silence's length; None is the usual.
        limits: for "limit".
        code: of the finding.
    """

    verb: Verb
    target: str
    request: int = 0
    reason: str = ""
    seconds: float | None = None
    limits: LimitValues = LimitValues()
    code: str = ""

    def subject(self) -> str:
        """What it is done to, for a person."""
        if self.verb == "cancel":
            return f"request {request_id(self.request)}"
        return f"{self.code} of {self.target}" if self.code else self.target

    def deadline_s(self) -> float:
        """How long it may take, or holds."""
        return self.seconds if self.seconds is not None else SILENCE_S if self.verb == "silence" else DRAIN_S


class Refusal(NamedTuple):
    """Cannot be done here, and what to do instead."""

    reason: str


class Errand(NamedTuple):
    """A message and the process whose control door it is for."""

    door_of: str
    message: ControlMessage


def errand(order: Order, rid: int, *, supervised: bool) -> Errand | Refusal:
    """The message of an order. With a supervisor it goes there; without one, to the process itself."""
    door_of = SUPERVISOR if supervised else order.target
    target, seconds, reason = order.target, order.deadline_s(), order.reason
    match order.verb:
        case "cancel":
            return Errand(scheduler_name(target), CancelRequest(rid, order.request, reason))
        case "limit":
            return Errand(scheduler_name(target), SetLimits(rid, order.limits, False, reason))
        case "reload":
            return Errand(target, Reload(rid, reason))
        case "acknowledge":
            return Errand(METRICS, Acknowledge(rid, order.code, target, reason))
        case "silence":
            return Errand(METRICS, Silence(rid, order.code, target, seconds, reason))
        case "drain":
            return Errand(door_of, Drain(rid, target, seconds, reason))
        case "undrain":
            return Errand(door_of, Undrain(rid, target, reason))
        case "restart" if supervised:
            return Errand(door_of, Restart(rid, target, seconds, "", reason))
        case "kill" if supervised:
            # Ended without waiting for its work, and started again: what a crash would do.
            return Errand(door_of, Restart(rid, target, 0.0, "", reason))
        case _:
            return Refusal(f"no supervisor to ask; under systemd: {_systemctl(order)}")


def _systemctl(order: Order) -> str:
    unit = f"headrace-{order.target}.service"
    return f"systemctl restart {unit}" if order.verb == "restart" else f"systemctl kill -s KILL {unit}"
