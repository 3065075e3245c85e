"""`headrace drain`, `undrain`, `cancel`, `reload`, `ack`, `silence`, `log-level`: ask for it, and see it done."""

from __future__ import annotations

import sys
import time
from typing import Literal

from bus.logread.query import BadQuery, parse_request
from bus.messages.control import Acknowledge, CancelRequest, Drain, Ok, Rejected, Reload, SetLogLevel, Silence, Undrain
from bus.names import SUPERVISOR
from cli.control import ASK_TIMEOUT_S, Caller, Unreachable, running_names


def take_out(name: str, deadline_s: float, *, wait: bool, reason: str = "") -> int:
    """Drain a process, and wait until it has nothing in hand."""
    with Caller() as caller:
        code = _tell(caller, name, Drain(0, name, deadline_s, reason))
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


def take_in(name: str, reason: str = "") -> int:
    """The opposite."""
    with Caller() as caller:
        return _tell(caller, name, Undrain(0, name, reason))


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


def cancel(text: str, reason: str) -> int:
    """End a request at whichever scheduler has it."""
    try:
        request = int(parse_request(text) or "x", 16)
    except (BadQuery, ValueError):
        print(f"{text!r} is no request id: hexadecimal digits, as screens and answers show it", file=sys.stderr)
        return 2
    schedulers = [name for name in running_names() if name.startswith("scheduler@")]
    if not schedulers:
        print("no scheduler runs here", file=sys.stderr)
        return 1
    with Caller() as caller:
        answers = caller.ask_all({name: CancelRequest(0, request, reason) for name in schedulers}, ASK_TIMEOUT_S)
    for name, answer in answers.items():
        if isinstance(answer, Ok):
            print(f"{name}: {answer.detail}")
            return 0
    for name in schedulers:
        said = answers.get(name)
        print(f"{name}: {said.reason if isinstance(said, Rejected) else 'no answer'}", file=sys.stderr)
    return 1


def tell(name: str, message: Reload | Acknowledge | Silence) -> int:
    """Ask the process itself, and print what it says."""
    with Caller() as caller:
        return _tell(caller, name, message, itself=True)


def _tell(
    caller: Caller, name: str, message: Drain | Undrain | Reload | Acknowledge | Silence, *, itself: bool = False
) -> int:
    """Ask the supervisor; without one, or where it is meant, the process itself."""
    try:
        answer = caller.ask(name if itself or SUPERVISOR not in running_names() else SUPERVISOR, message)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    if isinstance(answer, Ok) and answer.detail:
        print(answer.detail)
    return 0
