"""Who keeps the processes of this host alive: `headrace up`'s supervisor, or systemd. Commands ask either alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from bus.messages.control import Fleet, GetFleet, Ok, Rejected, Reply, Restart
from bus.names import SUPERVISOR
from cli.control import Caller, Unreachable, running_names
from cli.supervisor.logfiles import last_lines, log_path

PATIENCE_S: Final = 30.0  # with a supervisor that lives and does not answer: a slow disk may hold it up


class Keeper(Protocol):
    """Starts what ends, and knows what should be there."""

    def fleet(self) -> Fleet:
        """Every process that should run, as its keeper sees it.

        Raises:
            Unreachable: it does not say.
        """
        ...

    def restart(self, members: Sequence[str], deadline_s: float, reason: str = "") -> Ok | Rejected:
        """End these processes, which go together, and start them again; returns at once.

        Raises:
            Unreachable: it does not say whether it will.
        """
        ...

    def last_words(self, name: str, lines: int) -> list[str]:
        """What a process logged last, and where all of it is."""
        ...


class SupervisorKeeper:
    """`supervisor@host`, asked through its control door."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def fleet(self) -> Fleet:
        """As it answers `GetFleet`."""
        answer = ask_supervisor(self._caller, GetFleet(0))
        assert isinstance(answer, Fleet), answer
        return answer

    def restart(self, members: Sequence[str], deadline_s: float, reason: str = "") -> Ok | Rejected:
        """One of them stands for all: it knows the others."""
        answer = ask_supervisor(self._caller, Restart(0, members[0], deadline_s, reason=reason))
        assert isinstance(answer, Ok | Rejected), answer
        return answer

    def last_words(self, name: str, lines: int) -> list[str]:
        """From its log file."""
        return [*last_lines(log_path(name), lines), f"all of it: {log_path(name)}"]


def keeper_of(caller: Caller) -> Keeper | None:
    """Who keeps the processes of the caller's run directory; None where nobody does."""
    if SUPERVISOR in running_names(caller.run):
        return SupervisorKeeper(caller)
    from cli.systemd.running import SystemdKeeper

    return SystemdKeeper.find(caller)


def kept_by_systemd(run: Path) -> bool:
    """Whether systemd has units of headrace for this run directory."""
    from cli.systemd.running import loaded

    return SUPERVISOR not in running_names(run) and loaded(run)


def ask_supervisor(caller: Caller, question: GetFleet | Restart) -> Reply:
    """What the supervisor answers. Asked again where that does not come: both questions may be repeated.

    Raises:
        Unreachable: it is gone, refuses us, or has been silent for too long.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return caller.ask(SUPERVISOR, question)
        except Unreachable:
            gone = SUPERVISOR not in running_names(caller.run) or bool(caller.refusal(SUPERVISOR))
            if gone or time.monotonic() > end:
                raise
