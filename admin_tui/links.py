"""From a name to the screen and the row that show it: what a finding, a lease or a step is about. Pure."""

from __future__ import annotations

from typing import NamedTuple

from admin_tui.world import World
from bus.names import InvalidName, parse_process, parse_worker


class Link(NamedTuple):
    """A row of a screen, or rows that a filter keeps; neither: just the screen."""

    view: str
    subject: str = ""
    filter: str = ""


def to_process(name: str) -> Link:
    """Of a process."""
    return Link("fleet", name)


def to_request(request: int) -> Link:
    """Of a request."""
    return Link("requests", f"{request:x}")


def model_of(name: str) -> str:
    """The model of a scheduler or a worker; a name that is no process's is a model's."""
    try:
        role, instance = parse_process(name)
        if role == "worker":
            return parse_worker(instance).model
    except InvalidName:
        return "" if "@" in name else name
    return instance if role == "scheduler" else ""


def to_requests_of(process: str) -> Link:
    """The requests that a process has in hand; all of them where it has none of its own."""
    try:
        role, instance = parse_process(process)
        if role == "worker":
            worker = parse_worker(instance)
            return Link("requests", filter=f"model={worker.model} replica={worker.replica}")
    except InvalidName:
        return Link("requests")
    return Link("requests", filter=f"model={instance}" if role == "scheduler" else "")


def more_about(process: str) -> Link:
    """The screen that tells more of a process than its row does."""
    role, _, instance = process.partition("@")
    match role:
        case "scheduler":
            return Link("scheduler", instance)
        case "worker":
            return Link("host", process)
        case "kv":
            return Link("kv")
        case _:
            return Link("bus", filter=f"owner={process}")


def to_subject(world: World, subject: str) -> Link | None:
    """Of whatever this names: a process, a model, a request; None where it names nothing that is known."""
    if subject in world.processes or subject in world.units:
        return to_process(subject)
    if world.model(subject) is not None:
        return Link("models", subject)
    try:
        request = int(subject, 16)
    except ValueError:
        return None
    known = (live.request for live in world.requests), (done.request for done in world.recent)
    return to_request(request) if any(request in requests for requests in known) else None
