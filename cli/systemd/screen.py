"""systemd as the operator's screen asks it: each order in a conversation of its own, on the thread that gives it."""

from __future__ import annotations

from admin_tui.app import Outcome
from bus.messages.control import Ok
from cli.control import Caller, Unreachable
from cli.rolling import Step, steps_for
from cli.systemd.running import SystemdKeeper


class ScreenKeeper:
    """See `admin_tui.keeping.Keeper`. Nothing is asked for before there is an order."""

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
