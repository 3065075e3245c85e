"""Change what runs."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from cli.commands.base import ACTING, Switch, app


@app.command(group=ACTING, sort_key=1)
def drain(name: str, *, deadline: float = 120.0, wait: bool = True, reason: str = "") -> int:
    """Take a process out: it finishes what it has and takes nothing new, until undrain or restart.

    For example:

        headrace drain worker@smollm2.1.0
        headrace drain ingress@1 --no-wait

    Args:
        name: As `headrace status` shows it.
        deadline: Seconds it has.
        wait: Return when it has nothing in hand any more; exit code 1 at the deadline.
        reason: For the audit log.
    """
    from cli.orders import take_out

    return take_out(name, deadline, wait=wait, reason=reason)


@app.command(group=ACTING, sort_key=2)
def undrain(name: str, *, reason: str = "") -> int:
    """Let a drained process take work again.

    Args:
        name: As `headrace status` shows it.
        reason: For the audit log.
    """
    from cli.orders import take_in

    return take_in(name, reason)


@app.command(group=ACTING, sort_key=3)
def restart(
    name: str = "",
    *,
    everything: Annotated[bool, Parameter("--all", negative=())] = False,
    deadline: float = 120.0,
    json: Switch = False,
    reason: str = "",
) -> int:
    """End a process and start it again, or everything, one after the other; return when it is ready.

    For example:

        headrace restart scheduler@smollm2
        headrace restart --all              # after an upgrade, or a change of the configuration

    No request is lost: what is in hand goes on at another process, or when this one is back. Only an answer that is not
    streamed ends with an error where its ingress has no time left. What was given up (exit code 78) is tried again.

    Args:
        name: As `headrace status` shows it; tensor-parallel ranks restart together.
        everything: Restart all, each ready before the next; stops at the first that does not come back.
        deadline: Seconds that an ingress has to finish its answers, and a replica where others take new requests; 0
            kills.
        json: Print as JSON what was restarted and what was not.
        reason: For the audit log.
    """
    from cli.restart import restart as roll

    if bool(name) == everything:
        print("give the name of a process, or --all; headrace status lists the names", file=sys.stderr)
        return 2
    return roll(name, deadline, as_json=json, reason=reason)


@app.command(group=ACTING, sort_key=4)
def cancel(request: str, *, reason: str = "") -> int:
    """End one request; its client gets what was generated so far.

    For example:

        headrace cancel 6d18ea135df1772d
        headrace cancel chatcmpl-6d18ea135df1772d --reason "runs away"

    Args:
        request: Its id, as `headrace top` and answers show it.
        reason: For the audit log.
    """
    from cli.orders import cancel as end

    return end(request, reason)


@app.command(group=ACTING, sort_key=5)
def limit(model: str, *changes: str, reset: Switch = False, reason: str = "", json: Switch = False) -> int:
    """Which limits of a model hold, and other ones from the next step on.

    For example:

        headrace limit smollm2
        headrace limit smollm2 slots=16 inter_token_target_ms=100
        headrace limit smollm2 --reset

    What runs goes on, also beyond a lower limit; what comes next has to fit. Limits hold until they are reset, over
    restarts of the scheduler, and until a reboot; one whose configuration is changed is the configuration's again.

    Args:
        model: Its name.
        changes: NAME=NUMBER, of slots, step_tokens, inter_token_target_ms, queue_requests, queue_tokens.
        reset: Everything as configured first.
        reason: For the audit log.
        json: For programs: {"now": {...}, "configured": {...}, "most": {...}}.
    """
    from cli.limits import limit as change

    return change(model, changes, reset=reset, reason=reason, as_json=json)


@app.command(group=ACTING, sort_key=6)
def reload(name: str, *, reason: str = "") -> int:
    """Let a process read again what it can read while it runs: an ingress, the public keys of those who may connect.

    Args:
        name: ingress@0, for example.
        reason: For the audit log.
    """
    from bus.messages.control import Reload
    from cli.orders import tell

    return tell(name, Reload(0, reason))


@app.command(group=ACTING, sort_key=7)
def ack(code: str, subject: str, *, comment: str = "") -> int:
    """Say that somebody looks after a finding, until it is over.

    For example:

        headrace ack late worker@smollm2.1.0 --comment "disk is being replaced"

    Args:
        code: Of the finding, as `headrace top --once --json` shows it.
        subject: What it is about.
        comment: For others, and for the audit log.
    """
    from bus.messages.control import Acknowledge
    from bus.names import METRICS
    from cli.orders import tell

    return tell(METRICS, Acknowledge(0, code, subject, comment))


@app.command(group=ACTING, sort_key=8)
def silence(code: str, subject: str, *, duration: Annotated[str, Parameter("--for")] = "1h", comment: str = "") -> int:
    """Do not raise a finding for a while, whether it is there or not.

    For example:

        headrace silence queue-growing smollm2 --for 2h --comment "batch run"
        headrace silence queue-growing smollm2 --for 0    # raise it again

    Args:
        code: Of the finding, as `headrace top --once --json` shows it.
        subject: What it is about.
        duration: At most 7d; 0 ends a silence.
        comment: For others, and for the audit log.
    """
    from bus.logread.query import BadQuery, parse_span
    from bus.messages.control import Silence
    from bus.names import METRICS
    from cli.orders import tell

    try:
        seconds = parse_span(duration)
    except BadQuery as problem:
        print(problem, file=sys.stderr)
        return 2
    return tell(METRICS, Silence(0, code, subject, seconds, comment))


@app.command(group=ACTING, sort_key=9)
def log_level(name: str, level: Literal["debug", "info", "warning", "error"]) -> int:
    """Log more, or less, until the process ends.

    For example:

        headrace log-level scheduler@smollm2 debug

    Args:
        name: As `headrace status` shows it.
        level: From this level up.
    """
    from cli.orders import log_from

    return log_from(name, level)
