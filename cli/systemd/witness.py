"""What systemd is asked for, in the audit log: a process of the stack, which knows from the kernel who asks, says
whether that is an admin, and writes down what was done."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from bus.messages.control import Access, GetAccess, Ok, Rejected, Witness
from bus.names import KV, METRICS
from cli.control import Caller, Unreachable, running_names

_ASK_S: Final = 3.0


def find(caller: Caller, but: Collection[str]) -> str:
    """A process to tell it to, none of those that it is about; empty where none runs."""
    running = [name for name in running_names(caller.run) if name not in but]
    return min(running, key=lambda name: (name != METRICS, name != KV, name), default="")


def forbids(caller: Caller, witness: str) -> str:
    """Why the asker may not act; empty where they may, or where nobody says: polkit decides then alone."""
    if not witness:
        return ""
    try:
        answer = caller.ask(witness, GetAccess(0), _ASK_S)
    except Unreachable as error:
        return str(error) if "denied" in str(error) or "may not look" in str(error) else ""
    if isinstance(answer, Access) and answer.role != "admin":
        return f"{answer.user} may look and not act: {answer.who_may_act} may"
    return ""


def tell(
    caller: Caller,
    witness: str,
    verb: Literal["restart", "kill"],
    members: Collection[str],
    outcome: Ok | Rejected,
    reason: str,
) -> Ok | Rejected:
    """Have it written down, once for each; what the operator is to know: also who asked for the same before."""
    refused = outcome.reason if isinstance(outcome, Rejected) else ""
    detail = outcome.detail if isinstance(outcome, Ok) else ""
    said = [refused or detail]
    try:
        if not witness:
            raise Unreachable("no process runs that could write it")
        for name in members:
            answer = caller.ask(witness, Witness(0, verb, name, refused, detail, reason), _ASK_S)
            said = [answer.detail if isinstance(answer, Ok) else getattr(answer, "reason", "")]
            if isinstance(answer, Rejected) and not refused:
                return answer
    except Unreachable as error:
        said.append(f"not in the audit log: {error}")
    text = "; ".join(filter(None, said))
    return Rejected(0, text) if refused else Ok(0, text)
