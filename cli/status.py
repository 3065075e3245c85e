"""`headrace status`, and the commands that ask the supervisor for something."""

from __future__ import annotations

import sys
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.messages.common import ProcessState
from bus.messages.control import ModelStatus, UnitStatus
from bus.messages.observe import GetSnapshot, Snapshot
from bus.names import SUPERVISOR, parse_process, run_directory
from cli.control import STATUS_TIMEOUT_S, Caller, Unreachable, running_names
from cli.keeper import keeper_of
from cli.observer import ask
from cli.supervisor.logfiles import printable
from cli.supervisor.proc import is_stopped

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
    live: bool = True


class ModelEntry(msgspec.Struct, kw_only=True):
    """A model in `headrace status --json`, as its scheduler sees it. Three things are apart: `live`, its scheduler
    answers; `ready`, a replica could take a request now; `progressing`, the work in hand gets on, or there is none.

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
    live: bool = True
    ready: bool = False
    progressing: bool = True
    trouble: str = ""
    stuck: str = ""
    stuck_s: float = 0.0
    kind: str = ""
    mbu: float = -1.0
    mfu: float = -1.0


class Found(msgspec.Struct):
    """Everything that runs, or should run, on this host."""

    processes: list[Entry]
    models: list[ModelEntry]


def gather(caller: Caller) -> Found:
    """What the supervisor knows, filled in by what each process says of itself."""
    running = running_names(caller.run)
    entries: dict[str, Entry] = {}
    for unit in _kept(caller):
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
        models += map(_model, status.models)
    for name in running.keys() - statuses.keys():
        if not (entry := entries[name]).troubles:
            entry.live = False
            entry.troubles = [_why_silent(name, entry.pid)]
            if entry.role == "scheduler":
                models.append(_not_live(parse_process(name).instance, entry.troubles[0]))
    return Found(list(entries.values()), models)


def _kept(caller: Caller) -> tuple[UnitStatus, ...]:
    """What should run, by whoever sees to it; nothing where nobody does, or does not say soon."""
    if SUPERVISOR in running_names(caller.run):
        fleet = caller.fleet()
        return fleet.units if fleet is not None else ()
    try:
        keeper = keeper_of(caller)
        return keeper.fleet().units if keeper is not None else ()
    except Unreachable:
        return ()


def _model(told: ModelStatus) -> ModelEntry:
    entry = msgspec.convert(told, ModelEntry, from_attributes=True)
    entry.ready, entry.progressing = told.replicas_ready > 0, not told.stuck
    entry.stuck_s = round(told.stuck_s, 1)
    return entry


def _not_live(name: str, why: str) -> ModelEntry:
    return ModelEntry(
        name=name, state="failed", replicas=0, replicas_ready=0, waiting=0, running=0, output_tokens_per_s=0.0,
        live=False, progressing=False, trouble=why, stuck=why,
    )  # fmt: skip


def _why_silent(name: str, pid: int) -> str:
    if is_stopped(pid):
        return f"{name} is stopped by a signal (SIGSTOP): kill -CONT {pid}, or headrace restart {name}"
    return f"{name} does not answer: it is starting, very busy, or stuck (kill -USR1 {pid} has its log say where it is)"


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
        console.print(_health(model), markup=False, soft_wrap=True)


def _health(model: ModelEntry) -> str:
    """`model m: live, ready (1 of 2 replicas: why), progressing; 3 running, 0 waiting, 120 tok/s`"""
    if not model.live:
        return f"model {model.name}: not live: {printable(model.trouble)}"
    why = f": {printable(model.trouble)}" if model.trouble else ""
    ready = f"{'ready' if model.ready else 'not ready'} ({model.replicas_ready} of {model.replicas} replicas{why})"
    moves = "idle" if not model.running + model.waiting else "progressing"
    if not model.progressing:
        moves = f"standing still for {model.stuck_s:.0f} s: {printable(model.stuck)}"
    state = "" if model.state == "ready" else f"{model.state}, "
    what = {"embed": " (embeddings)", "rerank": " (reranks)"}.get(model.kind, "")
    return (
        f"model {model.name}{what}: {state}live, {ready}, {moves}; "
        f"{model.running} running, {model.waiting} waiting, {model.output_tokens_per_s:.0f} tok/s"
        + (f", {model.mbu:.0%} of memory bandwidth, {model.mfu:.0%} of arithmetic" if model.mbu >= 0 else "")
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
