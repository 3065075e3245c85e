"""Finding what an earlier supervisor left running: which processes, in which configuration, with which arena."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bus.config import Config
from bus.names import standby_name
from cli.control import Caller, running_names
from cli.supervisor.core import Adopted
from cli.supervisor.plan import fingerprint
from cli.supervisor.proc import runs_as, start_ticks
from cli.supervisor.state import SavedState, SavedUnit

_NOT_OURS: Final = ("supervisor", "cli", "tui", "client")
_ASK_S: Final = 2.0


class Survivor(NamedTuple):
    """A process that runs already."""

    process: Adopted
    saved: SavedUnit


def find_survivors(run: Path, saved: SavedState) -> dict[str, Survivor]:
    """Processes that hold a name of this run directory and are what they say.

    The lock file names a pid. It is believed where the process answers under that name, or where it is the very
    process that was started (pid and start time), or where its command line says so: one that is in the middle of a
    long step cannot answer.
    """
    candidates = {n: pid for n, pid in running_names(run).items() if n.partition("@")[0] not in _NOT_OURS}
    if not candidates:
        return {}
    with Caller(run) as caller:
        statuses = caller.statuses(candidates, _ASK_S)
    now = time.monotonic()
    found: dict[str, Survivor] = {}
    for name, pid in candidates.items():
        ticks = start_ticks(pid)
        known = saved.units.get(name)
        same = known is not None and (known.pid, known.start_ticks) == (pid, ticks)
        answers = name in statuses and statuses[name].pid == pid
        was = standby_name(name) if name.startswith("worker@") else name  # it may have come to the name from there
        if not ticks or not (answers or same or runs_as(pid, name) or runs_as(pid, was)):
            continue
        uptime = statuses[name].uptime_s if answers else 0.0
        unit = known if same and known is not None else SavedUnit(pid, ticks, 1, "")
        found[name] = Survivor(Adopted(pid, now - uptime, unit.starts, unit.held), unit)
    return found


def outdated(survivors: Mapping[str, Survivor], config: Config) -> list[str]:
    """Those that were started with another configuration of theirs than `config` has."""
    return [
        name
        for name, survivor in survivors.items()
        if survivor.saved.fingerprint and survivor.saved.fingerprint != fingerprint(config, name)
    ]
