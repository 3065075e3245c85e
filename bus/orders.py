"""Orders of operators: how the audit log names them, and who was first. Pure.

Two operators who see the same trouble do the same within seconds. Orders are idempotent, so no harm is done; the second
is told who did it before, and does not wonder.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from bus.messages.accounts import Allowance
from bus.messages.adapters import AddAdapter, RemoveAdapter
from bus.messages.caching import CalibrateCache, FlushCache
from bus.messages.control import (
    Acknowledge,
    AddKey,
    AddProject,
    CancelRequest,
    Drain,
    LimitValues,
    Reload,
    ReplaceSecret,
    Restart,
    RevokeKey,
    SetAllowance,
    SetLimits,
    SetLogLevel,
    Silence,
    Stop,
    Undrain,
    Witness,
)

Order = (
    Drain
    | Undrain
    | Stop
    | Restart
    | CancelRequest
    | SetLogLevel
    | SetLimits
    | Reload
    | Acknowledge
    | Silence
    | Witness
    | FlushCache
    | CalibrateCache
    | AddProject
    | AddKey
    | ReplaceSecret
    | RevokeKey
    | SetAllowance
    | AddAdapter
    | RemoveAdapter
)

REMEMBERED: Final = 256
REMEMBERED_S: Final = 600.0
_VERBS: Final[dict[type[msgspec.Struct], str]] = {
    Drain: "drain", Undrain: "undrain", Stop: "stop", Restart: "restart", CancelRequest: "cancel",
    SetLogLevel: "log-level", SetLimits: "limit", Reload: "reload", Acknowledge: "acknowledge", Silence: "silence",
    FlushCache: "cache-flush", CalibrateCache: "cache-calibrate",
    AddProject: "add-project", AddKey: "add-key", ReplaceSecret: "rotate-key", RevokeKey: "revoke-key",
    SetAllowance: "set-allowance", AddAdapter: "add-adapter", RemoveAdapter: "remove-adapter",
}  # fmt: skip
_OPPOSITES: Final = {"drain": "undrain", "undrain": "drain"}


def verb(order: Order) -> str:
    """In one word."""
    if isinstance(order, Restart) and not order.deadline_s:
        return "kill"
    if isinstance(order, Witness):
        return order.verb
    return _VERBS[type(order)]


def subject(order: Order, process: str) -> str:
    """What it is done to; `process` is the one that was asked."""
    match order:
        case Drain() | Undrain() | Restart():
            return order.name or process
        case Witness():
            return order.object
        case FlushCache() | CalibrateCache():
            return f"cache {order.space or 'of all namespaces'}"
        case CancelRequest():
            return f"request {order.request:x}"
        case Acknowledge() | Silence():
            return f"{order.code} {order.subject}"
        case AddProject() | AddAdapter() | RemoveAdapter():
            return order.name
        case AddKey():
            return order.key.id
        case ReplaceSecret() | RevokeKey():
            return order.key
        case SetAllowance():
            return order.allowance.scope
        case _:
            return process


def wording(order: Order) -> str:
    """What exactly was asked for, where verb and object do not say it."""
    match order:
        case SetLimits():
            return " ".join(["reset"] * order.reset + limits_in_words(order.limits))
        case SetLogLevel():
            return order.level
        case CalibrateCache():
            return "off" if order.off else f"budget {order.budget:g}" if order.budget else ""
        case Silence():
            return f"{order.seconds:.0f} s" if order.seconds else "ended"
        case AddKey():
            return f"{order.key.name!r} of {order.key.project}"
        case AddProject():
            return f"shares={order.shares} weight={order.weight:g}"
        case SetAllowance():
            return allowance_in_words(order.allowance)
        case AddAdapter():
            return order.path
        case _:
            return ""


def limits_in_words(limits: LimitValues) -> list[str]:
    """`slots=16`, for each that is meant."""
    pairs = ((name, getattr(limits, name)) for name in limits.__struct_fields__)
    return [f"{name}={value:g}" for name, value in pairs if value is not None]


def allowance_in_words(allowance: Allowance) -> str:
    """`total_tokens=1000 in 60 s of smollm2`."""
    if allowance.amount < 0:
        what = f"no {allowance.dimension}"
    elif allowance.dimension == "money":
        what = f"money={allowance.amount / 1e9:g} a {allowance.period}"
    else:
        what = f"{allowance.dimension}={allowance.amount}"
    window = f" in {allowance.window_s} s" if allowance.window_s else ""
    return f"{what}{window}{f' of {allowance.model}' if allowance.model else ''}"


def reason_of(order: Order) -> str:
    """The operator's own words."""
    return order.comment if isinstance(order, Acknowledge | Silence) else order.reason


class _Given(NamedTuple):
    user: str
    what: str
    at_s: float


class Firsts:
    """Who gave which order last."""

    def __init__(self) -> None:
        self._given: OrderedDict[tuple[str, str], _Given] = OrderedDict()

    def earlier(self, order: Order, process: str, now_s: float) -> str:
        """What to tell whoever gives this order: who gave it before; empty where nobody did lately."""
        given = self._given.get((verb(order), subject(order, process)))
        if given is None or now_s - given.at_s > REMEMBERED_S:
            return ""
        what = "the same" if given.what == wording(order) else given.what or "it"
        return f"{given.user} asked for {what} {now_s - given.at_s:.0f} s ago"

    def note(self, order: Order, process: str, user: str, now_s: float) -> None:
        """It was given, and obeyed."""
        done, to = verb(order), subject(order, process)
        self._given.pop((_OPPOSITES.get(done, ""), to), None)
        self._given[done, to] = _Given(user, wording(order), now_s)
        self._given.move_to_end((done, to))
        while len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
