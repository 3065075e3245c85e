"""The unit of restart: a process alone, or all ranks of a replica, which are useless without each other (one_for_all).

A group is in one of four phases:

    down      nobody runs; starts again at `until`, or when told to if `until` is None
    up        all members were started
    draining  before a requested restart of a worker, while other replicas take what is new and it finishes the rest
    leaving   members were told to end; at `until` they are killed

and `then` says what follows when the last member is gone. Nothing is decided here.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from bus.messages.common import ProcessState

EXIT_CONFIG: Final = 78  # EX_CONFIG: starting again cannot help until somebody edits the file

Phase = Literal["down", "up", "draining", "leaving"]
Then = Literal["retry", "restart", "stay"]


class Policy(NamedTuple):
    """Numbers of the restart rule.

    A process that dies before it was ever ready is likely to do so again: its delay doubles up to `delay_cap_s`, and
    after `stillborn_limit` of these in a row it counts as failed. One that was ready has shown that it can run: the
    first time it is started again at once, then within `ready_delay_cap_s`, and it counts as failed only after
    `death_limit` deaths without `stable_s` between.
    A failed group is tried again each `failed_retry_s`: what was missing may have come back.
    """

    delay_s: float = 0.1
    delay_cap_s: float = 10.0
    ready_delay_cap_s: float = 1.0
    stillborn_limit: int = 5
    death_limit: int = 50
    stable_s: float = 10.0
    failed_retry_s: float = 30.0
    stop_grace_s: float = 5.0  # between the end of a deadline and SIGKILL
    hand_over_s: float = 5.0  # for a step to end, and what is in hand to be handed on
    short_stop_s: float = 10.0  # for processes that have nothing to drain once those above them are gone


@dataclass(slots=True)
class Member:
    """One process of a group. `pid` is 0 where it does not run."""

    name: str
    pid: int = 0
    reported: ProcessState = "starting"
    since: float = 0.0
    starts: int = 0
    last_exit: str = ""


@dataclass(slots=True)
class Group:
    """The unit of restart."""

    name: str
    role: str
    members: list[Member] = field(default_factory=list)
    phase: Phase = "down"
    then: Then = "retry"
    until: float | None = None
    deaths: int = 0  # in a row, without a stable run between
    stillborn: int = 0  # of these, those in a row that never were ready
    ready_since: float | None = None
    refused: bool = False  # a member said that its configuration is bad
    held: bool = False  # an operator drained it; that survives a crash

    def alive(self) -> list[Member]:
        return [member for member in self.members if member.pid]

    def failed(self, policy: Policy) -> bool:
        return self.refused or self.stillborn >= policy.stillborn_limit or self.deaths >= policy.death_limit

    def state(self, member: Member, policy: Policy) -> ProcessState:
        """What is shown of a member."""
        if self.failed(policy) and not (member.pid and member.reported == "ready"):
            return "failed"
        if self.phase == "down":
            waits = self.until is not None or (self.role == "standby" and self.then != "stay")
            return "starting" if waits else "stopped"
        if self.phase in ("draining", "leaving") and member.pid:
            return "draining"
        return member.reported if member.pid else "stopped"


def describe_exit(code: int | None, *, asked: bool = False) -> str:
    """An exit status in words. `asked`: it was told to end."""
    if code is None:
        return "exit code unknown (it was adopted)"
    if code == 0:
        return "stopped as asked" if asked else "exit code 0, though nobody asked it to stop"
    if code == EXIT_CONFIG:
        return "exit code 78 (bad configuration)"
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
