"""What an order does and whom it hits, said before it is given. Pure."""

from __future__ import annotations

from typing import NamedTuple

from admin_tui.actions import Order
from admin_tui.text import count, duration
from admin_tui.world import World
from bus.names import InvalidName, parse_process, parse_worker


class Caution(NamedTuple):
    """What the dialog says before an order is given.

    Attributes:
        lines: what happens, and to how many requests; one fact a line.
        type_name: the operator must type the target's name.
    """

    title: str
    lines: tuple[str, ...]
    type_name: bool


def caution(order: Order, world: World) -> Caution:
    """What the operator must know before the order is given."""
    title = f"{order.verb.capitalize()} {order.subject()}"
    seconds = duration(order.deadline_s())
    match order.verb:
        case "drain":
            lines = (f"Takes nothing new; has {seconds} to finish.", *_drained(order.target, world))
            return Caution(title, lines, _is_last(order.target, world))
        case "undrain":
            return Caution(title, ("Takes work again.",), False)
        case "restart":
            return Caution(title, (f"Drains for at most {seconds} first.", *_process(order.target, world)), False)
        case "kill":
            return Caution(title, ("Ends now, without draining; starts again.", *_process(order.target, world)), True)
        case "cancel":
            return Caution(title, _request(order, world), False)
        case "limit":
            return Caution(title, _limits(order, world), False)
        case "reload":
            return Caution(title, ("Reads again what it can read while it runs.", "No request is touched."), False)
        case "acknowledge":
            return Caution(
                title, ("Others see that you look after it, until it is over.", "Nothing else changes."), False
            )
        case "silence" if order.deadline_s():
            return Caution(
                title, (f"Nobody is told of it for {seconds}, whatever it does.", *_finding(order, world)), False
            )
        case "silence":
            return Caution(title, ("The silence ends: it is raised again.",), False)


def _process(name: str, world: World) -> tuple[str, ...]:
    try:
        role, instance = parse_process(name)
    except InvalidName:
        return ()
    match role:
        case "worker":
            return _worker(name, instance, world)
        case "scheduler":
            return _scheduler(instance, world)
        case "ingress":
            others = sum(other.startswith("ingress@") for other in world.names()) - 1
            return (
                f"Other ingresses that take the port: {others}.",
                "Its open streams can be resumed by their clients for a grace time.",
            )
        case "kv":
            return ("Steps go on from mapped pages.", "No new pages are sealed or found until it is back.")
        case "metrics":
            return ("Screens and /metrics go blind until it is back.", "No request is touched.")
        case "accounts":
            return (
                "Keys stay good, and leases of limits and budgets go on.",
                "What is not leased: limits are waived for a while, budgets refuse with 503.",
            )
        case "batch":
            return (
                "Batches stand still, and files are out of reach, until it is back.",
                "Lines that were answered are not answered again; interactive requests are not touched.",
            )
        case "supervisor":
            return ("Processes go on; nobody restarts them until it is back.",)
    return ()


def _drained(name: str, world: World) -> tuple[str, ...]:
    """What is in hand ends where it is; what is new goes elsewhere."""
    try:
        role, instance = parse_process(name)
        model = world.model(parse_worker(instance).model if role == "worker" else instance)
    except InvalidName:
        return ()
    if role == "scheduler" and model is not None:
        return (
            f"Running {model.running}, waiting {model.waiting}: they finish. New requests of {instance} are refused.",
        )
    if role == "worker" and model is not None:
        worker = parse_worker(instance)
        hit = sum(live.model == worker.model and live.replica == worker.replica for live in world.requests)
        others = max(0, model.replicas_ready - 1)
        new = (
            f"new ones go to {others} other replica{'s' * (others != 1)}" if others else "it is the last: new ones wait"
        )
        return (f"Requests on this replica: {hit}; they finish there, {new}.",)
    if role == "ingress":
        others = sum(other.startswith("ingress@") for other in world.names()) - 1
        return (f"Its open streams finish. Other ingresses that take the port: {others}.",)
    return _process(name, world)


def _is_last(name: str, world: World) -> bool:
    """Whether a model is left with nobody to compute, or the host with nobody to answer: its name is to be typed."""
    try:
        role, instance = parse_process(name)
        if role == "worker":
            model = world.model(parse_worker(instance).model)
            return model is not None and model.replicas_ready <= 1
    except InvalidName:
        return False
    return role == "ingress" and sum(other.startswith("ingress@") for other in world.names()) <= 1


def _request(order: Order, world: World) -> tuple[str, ...]:
    live = world.live_request(order.request)
    if live is None:
        return ("It is not in a scheduler's hands any more.",)
    return (
        f'Its client gets the {count(live.generated_tokens)} tokens so far and the error "cancelled by the operator".',
        f"Frees {count(live.pages)} pages. No other request is touched.",
    )


def _worker(name: str, instance: str, world: World) -> tuple[str, ...]:
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
        *(() if others or model is None else (f"It is the last replica of {worker.model}: new requests wait for it.",)),
    )


def _scheduler(model_name: str, world: World) -> tuple[str, ...]:
    model = world.model(model_name)
    if model is None:
        return ()
    return (
        f"Running {model.running}, waiting {model.waiting}: all pause and are submitted again.",
        "Workers keep their weights; sealed pages are found again.",
    )


def _limits(order: Order, world: World) -> tuple[str, ...]:
    now, model = world.limits(order.target), world.model(order.target)
    lines = []
    for name in order.limits.__struct_fields__:
        wanted = getattr(order.limits, name)
        if wanted is not None:
            before = f"{now[name]:.15g}" if name in now else "?"
            lines.append(f"{name}: {before} -> {wanted:.15g}")
    if model is not None:
        lines.append(f"From the next step on. The {model.running} that run go on; {model.waiting} wait.")
        slots = order.limits.slots
        if slots is not None and model.running > slots * max(1, model.replicas_ready):
            lines.append(
                f"More run than may: nobody enters until {model.running - slots * model.replicas_ready} have ended."
            )
    return (*lines, "Holds over restarts, until it is reset, its configuration changes, or the host reboots.")


def _finding(order: Order, world: World) -> tuple[str, ...]:
    for finding in world.findings:
        if (finding.code, finding.subject) == (order.code, order.target):
            return (f"Now: {finding.text}",)
    return ("It is not there now.",)
