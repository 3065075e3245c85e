"""`headrace drain`, `undrain` and `restart`: ask for it, and see it done."""

from __future__ import annotations

import sys
import time
from typing import Final

from bus.messages.control import Drain, Ok, Rejected, Restart, Undrain, UnitStatus
from bus.names import SUPERVISOR
from cli.control import Caller, Unreachable, running_names
from cli.supervisor.logfiles import log_path

START_S: Final = 120.0  # for loading weights, after a restart


def take_out(name: str, deadline_s: float, *, wait: bool) -> int:
    """Drain a process, and wait until it has nothing in hand."""
    with Caller() as caller:
        code = _tell(caller, name, Drain(0, name, deadline_s))
        if code != 0 or not wait:
            return code
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            status = caller.statuses([name]).get(name)
            if status is not None and status.state == "draining" and status.load <= 0:
                print(f"{name} has nothing in hand any more")
                return 0
            time.sleep(min(left, 0.2))
    print(f"{name} still has work in hand after {deadline_s:.0f} s; it goes on draining", file=sys.stderr)
    return 1


def take_in(name: str) -> int:
    """The opposite."""
    with Caller() as caller:
        return _tell(caller, name, Undrain(0, name))


def start_again(name: str, deadline_s: float) -> int:
    """Restart a process, and wait until it is ready again."""
    with Caller() as caller:
        before = _unit(caller, name)
        code = _tell(caller, name, Restart(0, name, deadline_s))
        if code != 0 or before is None:
            return code
        end = time.monotonic() + deadline_s + START_S
        while time.monotonic() < end:
            unit = _unit(caller, name)
            if unit is not None and unit.state == "failed":
                print(f"{name} failed: {unit.last_exit}; see {log_path(name)}", file=sys.stderr)
                return 1
            if unit is not None and unit.state == "ready" and unit.pid != before.pid:
                print(f"{name} is ready again (pid {unit.pid})")
                return 0
            time.sleep(0.2)
    print(f"{name} is not ready yet; look on with: headrace status", file=sys.stderr)
    return 1


def _unit(caller: Caller, name: str) -> UnitStatus | None:
    fleet = caller.fleet(5.0)
    return next((unit for unit in fleet.units if unit.name == name), None) if fleet is not None else None


def _tell(caller: Caller, name: str, message: Drain | Undrain | Restart) -> int:
    """Ask the supervisor; without one, the process itself."""
    supervised = SUPERVISOR in running_names()
    if not supervised and isinstance(message, Restart):
        print(f"no supervisor runs here; under systemd: systemctl restart headrace-{name}", file=sys.stderr)
        return 1
    try:
        answer = caller.ask(SUPERVISOR if supervised else name, message)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    if isinstance(answer, Ok) and answer.detail:
        print(answer.detail)
    return 0
