"""`headrace drain`, `undrain` and `log-level`: ask for it, and see it done."""

from __future__ import annotations

import sys
import time
from typing import Literal

from bus.messages.control import Drain, Ok, Rejected, SetLogLevel, Undrain
from bus.names import SUPERVISOR
from cli.control import Caller, Unreachable, running_names


def take_out(name: str, deadline_s: float, *, wait: bool) -> int:
    """Drain a process, and wait until it has nothing in hand."""
    with Caller() as caller:
        code = _tell(caller, name, Drain(0, name, deadline_s))
        if code != 0 or not wait:
            return code
        end = time.monotonic() + deadline_s
        while (left := end - time.monotonic()) > 0:
            status = caller.statuses([name]).get(name)
            if status is not None and status.drained:
                print(f"{name} has nothing in hand any more")
                return 0
            time.sleep(min(left, 0.2))
    print(f"{name} still has work in hand after {deadline_s:.0f} s; it goes on draining", file=sys.stderr)
    return 1


def take_in(name: str) -> int:
    """The opposite."""
    with Caller() as caller:
        return _tell(caller, name, Undrain(0, name))


def log_from(name: str, level: Literal["debug", "info", "warning", "error"]) -> int:
    """Change what a process logs. It is asked itself: its supervisor has no part in it."""
    with Caller() as caller:
        try:
            answer = caller.ask(name, SetLogLevel(0, level))
        except Unreachable as error:
            print(error, file=sys.stderr)
            return 1
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    print(f"{name} logs from {level} up until it ends; [log] level is for good")
    return 0


def _tell(caller: Caller, name: str, message: Drain | Undrain) -> int:
    """Ask the supervisor; without one, the process itself."""
    try:
        answer = caller.ask(SUPERVISOR if SUPERVISOR in running_names() else name, message)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    if isinstance(answer, Ok) and answer.detail:
        print(answer.detail)
    return 0
