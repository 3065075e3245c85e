"""systemd as the operator's screen asks it: each question in a conversation of its own, on the thread that asks it."""

from __future__ import annotations

import time
from typing import Final

from admin_tui.app import Outcome, Service
from bus.messages.control import Ok
from bus.names import run_directory
from cli.control import Caller, Unreachable, running_names
from cli.rolling import Step, steps_for
from cli.systemd import ends
from cli.systemd.running import PROPERTIES, RUN, SystemdKeeper, kept_here, parse_units, show_text

_MORE: Final = ("SubState", "Result", "MemoryCurrent", "MemoryMax")


class ScreenKeeper:
    """See `admin_tui.keeping.Keeper`. Nothing is asked for where systemd does not keep the stack."""

    def restart(self, name: str, deadline_s: float, reason: str) -> Outcome:
        """One process with the other ranks of its replica."""
        try:
            with Caller() as caller:
                keeper = SystemdKeeper.find(caller, ask_password=False)
                if keeper is None:
                    return Outcome(False, "nobody here starts again what ends: neither a supervisor nor systemd")
                steps = steps_for(unit.name for unit in keeper.fleet().units)
                step = next((step for step in steps if name in step.members), Step((name,)))
                answer = keeper.restart(step.members, deadline_s, reason)
        except Unreachable as error:
            return Outcome(False, str(error))
        return Outcome(True, answer.detail) if isinstance(answer, Ok) else Outcome(False, answer.reason)

    def services(self) -> tuple[Service, ...]:
        """Every unit of a process that is loaded.

        Raises:
            Unreachable: systemctl is not there, or does not come back.
        """
        if not kept_here(run_directory()):
            return ()
        names = {pid: name for name, pid in running_names(RUN).items()}
        now_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        return services(show_text((*PROPERTIES, *_MORE)), names, now_s, ends.last(RUN))


def services(text: str, names: dict[int, str], now_s: float, known: dict[str, ends.End]) -> tuple[Service, ...]:
    """From what `systemctl show` prints; see `parse_units`.

    Args:
        known: the last bad end of each unit.
    """
    more = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        more[values.get("Id", "")] = values
    found = []
    for unit, status in parse_units(text, names, now_s).items():
        values, end = more[unit], known.get(unit)
        result = values.get("Result", "success")
        last_stop = end.cause if end is not None else status.last_exit or ("" if result == "success" else result)
        found.append(
            Service(
                status.name, unit, status.state, f"{values.get('ActiveState', '')} ({values.get('SubState', '')})",
                status.pid, status.restarts, status.uptime_s, _bytes(values.get("MemoryCurrent", "")),
                _bytes(values.get("MemoryMax", "")), last_stop,
            )
        )  # fmt: skip
    return tuple(found)


def _bytes(text: str) -> int:
    """0 where it is not counted ("[not set]") or not limited ("infinity")."""
    return int(text) if text.isdigit() and int(text) < 1 << 63 else 0
