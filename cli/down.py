"""`headrace down`: the end of a stack, with its supervisor's help or without."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Final

from bus.messages.control import Ok, Rejected, Stop
from bus.names import SUPERVISOR, run_directory
from cli.control import Caller, Unreachable, running_names
from cli.keeper import kept_by_systemd
from cli.supervisor.logfiles import log_path
from cli.supervisor.plan import STOP_ORDER
from cli.systemd.running import stop_everything

# What the supervisor needs beyond the deadline, which is for requests: processes that do not end are given a little
# time, one kind after the other, and are then killed.
_GRACE_S: Final = 60.0
_LOOK_S: Final = 0.05


def stop(deadline_s: float) -> int:
    """Drain and end everything; return when it is gone."""
    if SUPERVISOR in running_names():
        return _through_supervisor(deadline_s)
    if kept_by_systemd(run_directory()):
        print("systemd keeps these processes: systemctl stop headrace.target", file=sys.stderr)
        return stop_everything()
    if not _running("all"):
        print(f"nothing to stop: nothing runs in {run_directory()}", file=sys.stderr)
        return 0
    print("no supervisor runs here; ending what it left", file=sys.stderr)
    return _one_by_one(deadline_s)


def stop_insisting(deadline_s: float) -> int:
    """`stop`, which a further Ctrl-C shortens to now."""
    try:
        return stop(deadline_s)
    except KeyboardInterrupt:
        return stop(0.0)


def _through_supervisor(deadline_s: float) -> int:
    pid = running_names()[SUPERVISOR]
    try:
        with Caller() as caller:
            answer = caller.ask(SUPERVISOR, Stop(0, deadline_s))
    except Unreachable as error:
        # Of another release, say, that has no protocol in common with this one: a signal is older than protocols.
        print(f"{error}; sending it SIGTERM instead", file=sys.stderr)
        os.kill(pid, signal.SIGTERM)
        answer = Ok(0)
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    if not _wait_gone("supervisor", deadline_s + _GRACE_S):
        print(f"the supervisor is still there; see {log_path(SUPERVISOR)}", file=sys.stderr)
        return 1
    return 0


def _one_by_one(deadline_s: float) -> int:
    """In the supervisor's order: those in front first, the pages last."""
    for role in STOP_ORDER:
        with Caller() as caller:
            caller.ask_all({name: Stop(0, deadline_s) for name in _running(role)})
        if not _wait_gone(role, deadline_s + 1.0):
            for pid in _running(role).values():
                os.kill(pid, signal.SIGKILL)
            _wait_gone(role, _GRACE_S)
    return 0


def _running(role: str) -> dict[str, int]:
    roles = STOP_ORDER if role == "all" else (role,)
    return {name: pid for name, pid in running_names().items() if name.partition("@")[0] in roles}


def _wait_gone(role: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while _running(role):
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_S)
    return True
