"""What an operator can do: the order, the door it goes to, and whom it hits. Pure: `courier` carries it out."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from admin_tui.text import count, request_id
from admin_tui.world import World
from bus.messages.control import CancelRequest, Drain, Restart, Undrain
from bus.names import SUPERVISOR, InvalidName, parse_process, parse_worker, scheduler_name

Verb = Literal["drain", "undrain", "restart", "kill", "cancel"]
DRAIN_S: Final = 120.0
ControlMessage = Drain | Undrain | Restart | CancelRequest


class Order(NamedTuple):
    """Do this to that. `target` is a process, or for "cancel" the model whose scheduler has `request`."""

    verb: Verb
    target: str
    request: int = 0

    def subject(self) -> str:
        """What it is done to, for a person."""
        return f"request {request_id(self.request)}" if self.verb == "cancel" else self.target


class Refusal(NamedTuple):
    """Cannot be done here, and what to do instead."""

    reason: str


class Errand(NamedTuple):
    """A message and the process whose control door it is for."""

    door_of: str
    message: ControlMessage


class Caution(NamedTuple):
    """What the dialog says before an order is given.

    Attributes:
        lines: blast radius, one fact a line.
        type_name: the operator must type the target's name.
    """

    title: str
    lines: tuple[str, ...]
    type_name: bool


def errand(order: Order, rid: int, *, supervised: bool) -> Errand | Refusal:
    """The message of an order. With a supervisor it goes there; without one, to the process itself."""
    door_of = SUPERVISOR if supervised else order.target
    match order.verb:
        case "cancel":
            return Errand(scheduler_name(order.target), CancelRequest(rid, order.request))
        case "drain":
            return Errand(door_of, Drain(rid, order.target, DRAIN_S))
        case "undrain":
            return Errand(door_of, Undrain(rid, order.target))
        case "restart" if supervised:
            return Errand(door_of, Restart(rid, order.target, DRAIN_S))
        case "kill" if supervised:
            # Ended without waiting for its work, and started again: what a crash would do.
            return Errand(door_of, Restart(rid, order.target, 0.0))
        case _:
            return Refusal(f"no supervisor to ask; under systemd: {_systemctl(order)}")


def _systemctl(order: Order) -> str:
    unit = f"headrace-{order.target}.service"
    return f"systemctl restart {unit}" if order.verb == "restart" else f"systemctl kill -s KILL {unit}"


def caution(order: Order, world: World) -> Caution:
    """What the operator must know before the order is given."""
    lines = _blast_radius(order, world)
    match order.verb:
        case "drain":
            return Caution(
                f"Drain {order.target}", (f"Takes nothing new; has {DRAIN_S:.0f} s to finish.", *lines), False
            )
        case "undrain":
            return Caution(f"Undrain {order.target}", ("Takes work again.",), False)
        case "restart":
            return Caution(f"Restart {order.target}", (f"Drains for at most {DRAIN_S:.0f} s first.", *lines), False)
        case "kill":
            return Caution(f"Kill {order.target}", ("Ends now, without draining; starts again.", *lines), True)
        case "cancel":
            return Caution(f"Cancel {order.subject()}", lines, False)


def _blast_radius(order: Order, world: World) -> tuple[str, ...]:
    if order.verb == "cancel":
        return _of_request(order, world)
    try:
        role, instance = parse_process(order.target)
    except InvalidName:
        return ()
    match role:
        case "worker":
            return _of_worker(order.target, instance, world)
        case "scheduler":
            return _of_scheduler(instance, world)
        case "ingress":
            others = sum(name.startswith("ingress@") for name in world.names()) - 1
            return (
                f"Other ingresses that take the port: {others}.",
                "Its open streams can be resumed by their clients for a grace time.",
            )
        case "kv":
            return ("Steps go on from mapped pages.", "No new pages are sealed or found until it is back.")
        case "metrics":
            return ("Screens and /metrics go blind until it is back.", "No request is touched.")
        case "supervisor":
            return ("Processes go on; nobody restarts them until it is back.",)
    return ()


def _of_request(order: Order, world: World) -> tuple[str, ...]:
    live = world.live_request(order.request)
    if live is None:
        return ("It is not in a scheduler's hands any more.",)
    return (
        f'Its client gets the {count(live.generated_tokens)} tokens so far and finish reason "abort".',
        f"Frees {count(live.pages)} pages. No other request is touched.",
    )


def _of_worker(name: str, instance: str, world: World) -> tuple[str, ...]:
    try:
        worker = parse_worker(instance)
    except InvalidName:
        return ()
    hit = sum(live.model == worker.model and live.replica == worker.replica for live in world.requests)
    peers = [n for n in world.names() if n.startswith(f"worker@{worker.model}.{worker.replica}.") and n != name]
    model = world.model(worker.model)
    others = max(0, model.replicas_ready - 1) if model else 0
    return (
        f"Requests on this replica: {hit}; they go on "
        + (f"at {others} other replica{'s' * (others != 1)}." if others else "here when it is back."),
        *((f"Tensor-parallel peers that leave with it: {len(peers)}.",) if peers else ()),
    )


def _of_scheduler(model_name: str, world: World) -> tuple[str, ...]:
    model = world.model(model_name)
    if model is None:
        return ()
    return (
        f"Running {model.running}, waiting {model.waiting}: all pause and are submitted again.",
        "Workers keep their weights; sealed pages are found again.",
    )
