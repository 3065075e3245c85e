"""`headrace status`, and the commands that ask the supervisor for something."""

from __future__ import annotations

import sys
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.messages.common import ProcessState
from bus.messages.observe import GetSnapshot, Snapshot
from bus.names import SUPERVISOR, parse_process, run_directory
from cli.control import STATUS_TIMEOUT_S, Caller, Unreachable, running_names
from cli.observer import ask
from cli.supervisor.logfiles import printable

_GLYPHS: Final = {"ready": "● ready", "starting": "◐ starting", "draining": "◌ draining", "stopped": "○ stopped",
           "failed": "✖ failed"}  # fmt: skip


class Entry(msgspec.Struct, kw_only=True):
    """A process in `headrace status --json`. What is not known is 0, -1 or empty."""

    name: str
    role: str
    pid: int
    state: ProcessState = "starting"
    epoch: int = 0
    uptime_s: float = 0.0
    load: float = -1.0
    restarts: int = 0
    detail: str = ""
    last_exit: str = ""
    build: str = ""
    troubles: list[str] = []


class ModelEntry(msgspec.Struct, kw_only=True):
    """A model in `headrace status --json`, as its scheduler sees it.

    Attributes:
        mbu, mfu: memory bandwidth and arithmetic of its steps in the last ten seconds, of what the host was measured to
            do (`headrace bench --ceilings`); -1 where no step ran, or it was not measured.
    """

    name: str
    state: ProcessState
    replicas: int
    replicas_ready: int
    waiting: int
    running: int
    output_tokens_per_s: float
    mbu: float = -1.0
    mfu: float = -1.0


class Found(msgspec.Struct):
    """Everything that runs, or should run, on this host."""

    processes: list[Entry]
    models: list[ModelEntry]


def gather(caller: Caller) -> Found:
    """What the supervisor knows, filled in by what each process says of itself."""
    running = running_names(caller.run)
    fleet = caller.fleet() if SUPERVISOR in running else None
    entries: dict[str, Entry] = {}
    for unit in fleet.units if fleet is not None else ():
        entries[unit.name] = Entry(
            name=unit.name, role=parse_process(unit.name).role, pid=unit.pid, state=unit.state,
            uptime_s=round(unit.uptime_s, 1), restarts=unit.restarts, last_exit=unit.last_exit,
        )  # fmt: skip
    for name, pid in running.items():
        entries.setdefault(name, Entry(name=name, role=parse_process(name).role, pid=pid))
    models: list[ModelEntry] = []
    statuses = caller.statuses(name for name in entries if name in running)
    for name in entries.keys() - statuses.keys():
        if refusal := caller.refusal(name):
            entries[name].troubles = [f"{name} refuses this command: {refusal}"]
    for name, status in statuses.items():
        entry = entries[name]
        entry.build, entry.troubles = status.build, list(status.troubles)
        entry.pid, entry.epoch, entry.uptime_s = status.pid, status.epoch, round(status.uptime_s, 1)
        entry.load, entry.detail = status.load, status.detail
        if entry.state != "failed":  # what failed before may be up for a moment; it has not shown yet that it can stay
            entry.state = status.state
        models += [msgspec.convert(model, ModelEntry, from_attributes=True) for model in status.models]
    return Found(list(entries.values()), models)


def _reached(caller: Caller, found: Found) -> None:
    """Fill in what models reach of the host, which the metrics process knows."""
    try:
        loads = {load.model: load for load in ask(caller, GetSnapshot(1), Snapshot, STATUS_TIMEOUT_S).models}
    except Unreachable:
        return
    for model in found.models:
        if (load := loads.get(model.name)) is not None:
            model.mbu, model.mfu = load.mbu, load.mfu


def show(*, as_json: bool) -> int:
    """Print it. Exit code 1 where nothing runs."""
    with Caller() as caller:
        found = gather(caller)
        _reached(caller, found)
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif found.processes:
        _print(found)
    else:
        print(f"nothing runs here (run directory {run_directory()}); start with: headrace up", file=sys.stderr)
    return 0 if found.processes else 1


def _print(found: Found) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width to fold to
    table = Table(box=None, pad_edge=False)
    mixed = len({entry.build for entry in found.processes if entry.build}) > 1  # in the middle of an upgrade
    for heading in ("process", "state", "pid", "up", "restarts", "epoch", "load", *(["release"] if mixed else [])):
        right = heading not in ("process", "state")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    table.add_column("says", no_wrap=True, overflow="ellipsis")
    for entry in found.processes:
        table.add_row(
            entry.name, _GLYPHS[entry.state], str(entry.pid or ""), _duration(entry.uptime_s), str(entry.restarts),
            str(entry.epoch or ""), f"{entry.load:.0%}" if entry.load >= 0 else "",
            *([printable(entry.build)] if mixed else []), Text(printable(entry.detail or entry.last_exit)),
        )  # fmt: skip
    console.print(table)
    for entry in found.processes:
        for trouble in entry.troubles:
            console.print(f"✖ {entry.name}: {printable(trouble)}", markup=False, soft_wrap=True)
    for model in found.models:
        console.print(
            f"model {model.name}: {model.state}, {model.replicas_ready} of {model.replicas} replicas ready, "
            f"{model.running} running, {model.waiting} waiting, {model.output_tokens_per_s:.0f} tok/s"
            + (f", {model.mbu:.0%} of memory bandwidth, {model.mfu:.0%} of arithmetic" if model.mbu >= 0 else ""),
            markup=False,
            soft_wrap=True,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
