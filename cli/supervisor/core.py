"""What the supervisor decides: when to start, restart, give up on, drain and stop a process. Pure: no clock, no pid
is touched here. Callers say what happened and when (seconds, monotonic); they get back what to do.

The unit of restart is the *group*: a process alone, or all ranks of a replica, which are useless without each other
(one_for_all). A group is in one of four phases:

    down      nobody runs; starts again at `until`, or when told to if `until` is None
    up        all members were started
    draining  before a requested restart of a worker, while other replicas take what is new and it finishes the rest
    leaving   members were told to end; at `until` they are killed

and `then` says what follows when the last member is gone. To end with a deadline of 0 is not to be killed: a process
then hands on what it has in hand, between two steps, and ends.

A *standby* is a group of its own: a process that has everything loaded and becomes the worker when the kernel gives it
the worker's name, which the worker's death does, whatever is decided here. So where a worker is to be started and its
standby runs, nothing is started: the standby's process is the worker's from then on. The next one is started when the
worker is ready.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from bus.messages.common import ProcessState
from bus.names import standby_name, worker_of
from cli.supervisor.plan import STOP_ORDER, Unit, unit_named

EXIT_CONFIG: Final = 78  # EX_CONFIG: starting again cannot help until somebody edits the file

Phase = Literal["down", "up", "draining", "leaving"]
Then = Literal["retry", "restart", "stay"]
Level = Literal["info", "warning", "error"]


class Spawn(NamedTuple):
    """Start the process."""

    name: str


class Promote(NamedTuple):
    """The process of `standby` is that of `name` now."""

    name: str
    standby: str


class AskDrain(NamedTuple):
    """Tell it to take nothing new."""

    name: str
    deadline_s: float


class AskUndrain(NamedTuple):
    """Tell it to take work again."""

    name: str


class AskStop(NamedTuple):
    """Tell it to drain and end."""

    name: str
    deadline_s: float


class Kill(NamedTuple):
    """SIGKILL."""

    name: str
    pid: int


class Say(NamedTuple):
    """For the operator's eyes."""

    level: Level
    name: str
    text: str


class Finished(NamedTuple):
    """Everything has ended; so may the supervisor."""


Action = Spawn | Promote | AskDrain | AskUndrain | AskStop | Kill | Say | Finished


class Refused(Exception):
    """A command that makes no sense now; the message says why."""


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


class Adopted(NamedTuple):
    """A process that an earlier supervisor started."""

    pid: int
    since: float
    starts: int = 1
    held: bool = False


class UnitView(NamedTuple):
    """A process for `headrace status`."""

    name: str
    pid: int
    state: ProcessState
    restarts: int
    since: float
    last_exit: str
    held: bool


class Fleet:
    """All groups of a host.

    Args:
        units: what should run, in the order in which it is started.
    """

    def __init__(self, units: Iterable[Unit], policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.groups: dict[str, Group] = {}
        self.stopping = False
        self._stop_by = 0.0
        self._stage = -1
        self._finished = False
        for unit in units:
            self._add(unit)

    def _add(self, unit: Unit) -> Group:
        group = self.groups.setdefault(unit.group, Group(unit.group, unit.role))
        group.members.append(Member(unit.name))
        return group

    # What happens

    def start(self, adopted: Mapping[str, Adopted], now: float) -> list[Action]:
        """The beginning. `adopted` are processes that run already, by name.

        A group of which only some members run is restarted whole; what runs but is not wanted any more is ended.
        """
        actions: list[Action] = []
        for name in adopted.keys() - {member.name for member in self._members()}:
            group = self._add(unit_named(name))
            group.then = "stay"
        for name, running in adopted.items():
            member = self._member(name)
            member.pid, member.since, member.starts = running.pid, running.since, running.starts
            self._group(name).held |= running.held
        for group in self.groups.values():
            alive = group.alive()
            if group.then == "stay":
                actions.append(Say("warning", group.name, "is not in the configuration any more; ending it"))
                actions += self._leave(group, "stay", self.policy.short_stop_s, now)
            elif not alive and group.role != "standby":
                actions += self._spawn(group, now)
            elif not alive:
                continue  # when its worker is ready
            elif len(alive) == len(group.members):
                group.phase = "up"
                actions += [Say("info", member.name, f"was running already (pid {member.pid})") for member in alive]
            else:
                actions.append(Say("warning", group.name, "only some of its ranks were running; restarting all"))
                actions += self._collapse(group, "restart", now)
        return actions

    def reported(self, name: str, pid: int, state: ProcessState, idle: bool, now: float) -> list[Action]:
        """A process said how it is. `idle`: nothing is in its hands."""
        member, group = self._member(name), self._group(name)
        if member.pid != pid or not pid:
            return []
        actions: list[Action] = []
        if state != member.reported:
            member.reported = state
            if state == "ready":
                actions.append(Say("info", name, f"ready after {now - member.since:.1f} s"))
        if all(m.pid and m.reported == "ready" for m in group.members):
            if group.ready_since is None:
                group.ready_since, group.stillborn = now, 0
                actions += self._start_standbys(group, now)
        elif state == "starting":
            group.ready_since = None
        if group.held and state == "ready" and group.phase == "up":
            actions.append(AskDrain(name, self.policy.short_stop_s))
        if group.phase == "draining" and idle and state != "ready":
            actions += self._leave(group, "restart", 0.0, now)
        return actions

    def exited(self, name: str, pid: int, code: int | None, now: float) -> list[Action]:
        """A process has ended. `code` is negative for a signal, as in `subprocess`, and None where it cannot be known:
        the exit status of an adopted process went to another parent."""
        member, group = self._member(name), self._group(name)
        if member.pid != pid or not pid:
            return []
        member.pid, member.reported = 0, "starting"
        member.last_exit = describe_exit(code, asked=group.phase == "leaving")
        if group.phase == "leaving":
            return self._settle(group, now) if not group.alive() else []
        actions: list[Action] = [Say("warning", name, f"ended unexpectedly: {member.last_exit}")]
        self._count_death(group, code, now)
        then: Then = "restart" if group.phase == "draining" else "retry"
        return actions + self._collapse(group, then, now)

    def hung(self, name: str, pid: int) -> list[Action]:
        """A process has not answered for too long: it is killed, and comes back as after any other death."""
        member = self._member(name)
        if member.pid != pid or not pid or self._group(name).phase == "leaving":
            return []
        return [Say("error", name, "does not answer any more; killing it"), Kill(name, pid)]

    def tick(self, now: float) -> list[Action]:
        """Time has passed. Call it no later than `next_wake`."""
        actions: list[Action] = []
        for group in list(self.groups.values()):
            if group.until is None or group.until > now:
                continue
            match group.phase:
                case "down":
                    actions += self._spawn(group, now)
                case "draining":
                    actions.append(Say("info", group.name, "its deadline is over; its requests go on elsewhere"))
                    actions += self._leave(group, "restart", 0.0, now)
                case "leaving":
                    group.until = now + self.policy.stop_grace_s
                    actions += [Kill(member.name, member.pid) for member in group.alive()]
                case "up":
                    group.until = None
        return actions

    # What operators ask for

    def drain(self, name: str, deadline_s: float) -> list[Action]:
        """Take nothing new, and stay.

        Raises:
            Refused: unknown, or not running.
        """
        group = self._running(name)
        if group.role == "standby":
            raise Refused(f"{name} has nothing to drain; it waits")
        group.held = True
        return [AskDrain(member.name, deadline_s) for member in group.alive()]

    def undrain(self, name: str) -> list[Action]:
        """The opposite of `drain`.

        Raises:
            Refused: unknown, or not running.
        """
        group = self._running(name)
        group.held = False
        return [AskUndrain(member.name) for member in group.alive()]

    def restart(self, name: str, deadline_s: float, now: float) -> list[Action]:
        """Drain, end and start again the group of `name`; one that has failed is tried again at once. A deadline of 0
        kills it, as a crash would.

        Requests outlive processes, so nobody waits for a request to end where others would have to wait with it: a
        scheduler, and a worker that is alone with its model, go at once, and what they had goes on when they are back.

        Raises:
            Refused: unknown, or the fleet is stopping.
        """
        if self.stopping:
            raise Refused("everything is being stopped")
        group = self._known(name)
        if group.then == "stay":
            raise Refused(f"{name} is not in the configuration any more")
        group.deaths = group.stillborn = 0
        group.held = False
        if group.phase == "down":
            return self._spawn(group, now)
        if group.phase == "leaving":
            group.then = "restart"
            return []
        if group.phase == "draining":
            return []
        if deadline_s <= 0:
            return self._kill(group, "restart", now)
        if group.role == "worker" and self._others_serve(group):
            group.phase, group.until = "draining", now + deadline_s
            return [AskDrain(member.name, deadline_s) for member in group.alive()]
        return self._leave(group, "restart", 0.0 if group.role in ("scheduler", "worker") else deadline_s, now)

    def stop(self, deadline_s: float, now: float) -> list[Action]:
        """End everything: those in front first, so that what is under way can end; kv last. Asked again with a
        deadline of 0, it kills what is left."""
        self._stop_by = now + deadline_s
        if self.stopping:
            for group in self.groups.values():
                if group.phase == "leaving" and group.until is not None:
                    group.until = min(group.until, self._stop_by)
            return self.tick(now)
        self.stopping = True
        return self._advance_stop(now)

    # What can be seen

    def units(self) -> Iterator[UnitView]:
        """Every process, in the order in which they are started."""
        for group in self.groups.values():
            for member in group.members:
                state = self._state(group, member)
                yield UnitView(
                    member.name,
                    member.pid,
                    state,
                    max(0, member.starts - 1),
                    member.since,
                    member.last_exit,
                    group.held,
                )

    def next_wake(self) -> float | None:
        """When `tick` must be called at the latest."""
        return min((group.until for group in self.groups.values() if group.until is not None), default=None)

    def _state(self, group: Group, member: Member) -> ProcessState:
        if group.failed(self.policy) and not (member.pid and member.reported == "ready"):
            return "failed"
        if group.phase == "down":
            waits = group.until is not None or (group.role == "standby" and group.then != "stay")
            return "starting" if waits else "stopped"
        if group.phase in ("draining", "leaving") and member.pid:
            return "draining"
        return member.reported if member.pid else "stopped"

    # How it is decided

    def _spawn(self, group: Group, now: float) -> list[Action]:
        if group.role == "standby" and self._worker_group(group).ready_since is None:
            # It would be in the way of a worker that starts.
            group.phase, group.until, group.refused = "down", None, False
            return []
        group.phase, group.then, group.until, group.ready_since, group.refused = "up", "retry", None, None, False
        actions: list[Action] = []
        for member in group.members:
            member.since, member.starts, member.reported = now, member.starts + 1, "starting"
            if (standby := self._standby(member.name)) is None:
                actions.append(Spawn(member.name))
                continue
            waiting = standby.members[0]
            member.pid, waiting.pid, waiting.reported = waiting.pid, 0, "starting"
            standby.phase, standby.until, standby.ready_since = "down", None, None
            standby.deaths = standby.stillborn = 0
            actions.append(Promote(member.name, waiting.name))
        return actions

    def _start_standbys(self, group: Group, now: float) -> list[Action]:
        """Of a group that has become ready."""
        actions: list[Action] = []
        for member in group.members:
            standby = self.groups.get(standby_name(member.name)) if group.role == "worker" else None
            if standby is not None and standby.phase == "down" and _may_start(standby) and not self.stopping:
                actions += self._spawn(standby, now)
        return actions

    def _end_standbys(self, group: Group, now: float) -> list[Action]:
        """Of a group that must not run: they may have its names already."""
        standbys = [standby for member in group.members if (standby := self._standby(member.name)) is not None]
        return [action for standby in standbys for action in self._kill(standby, "restart", now)]

    def _standby(self, worker: str) -> Group | None:
        """The group of a worker's standby, where it runs and may take over."""
        if not worker.startswith("worker@"):
            return None
        standby = self.groups.get(standby_name(worker))
        return standby if standby is not None and standby.phase == "up" and standby.alive() else None

    def _worker_group(self, standby: Group) -> Group:
        return self._group(worker_of(standby.members[0].name))

    def spawned(self, name: str, pid: int, now: float) -> list[Action]:
        """A `Spawn` was carried out."""
        member = self._member(name)
        member.pid, member.since = pid, now
        group = self._group(name)
        if group.phase == "up":
            return []
        # Another rank could not be started: this one, whose start was under way, is of no use. It leaves first.
        group.phase, group.until = "leaving", now + self.policy.stop_grace_s
        return [Kill(name, pid)]

    def spawn_failed(self, name: str, reason: str, now: float) -> list[Action]:
        """A `Spawn` could not be carried out: like a death before readiness."""
        group, member = self._group(name), self._member(name)
        member.last_exit = reason
        self._count_death(group, 1, now)
        return [Say("error", name, f"could not be started: {reason}"), *self._collapse(group, "retry", now)]

    def _count_death(self, group: Group, code: int | None, now: float) -> None:
        if group.ready_since is None:
            group.stillborn += 1
        elif now - group.ready_since >= self.policy.stable_s:
            group.deaths = 0
        group.deaths += 1
        group.refused = group.refused or code == EXIT_CONFIG

    def _others_serve(self, group: Group) -> bool:
        """Whether another replica of the same model takes new requests."""
        return any(
            other is not group and other.role == "worker" and other.phase == "up" and not other.held
            and other.name.rpartition(".")[0] == group.name.rpartition(".")[0]
            and all(member.pid and member.reported == "ready" for member in other.members)
            for other in self.groups.values()
        )  # fmt: skip

    def _collapse(self, group: Group, then: Then, now: float) -> list[Action]:
        """A member is gone, so the others are of no use: they may be stuck waiting for it."""
        return self._kill(group, then, now)

    def _leave(self, group: Group, then: Then, deadline_s: float, now: float) -> list[Action]:
        """All members end by themselves, and finish within the deadline what they have in hand."""
        patience_s = max(deadline_s, self.policy.hand_over_s) + self.policy.stop_grace_s
        group.phase, group.then, group.until = "leaving", then, now + patience_s
        rest = group.alive()
        return [AskStop(member.name, deadline_s) for member in rest] if rest else self._settle(group, now)

    def _kill(self, group: Group, then: Then, now: float) -> list[Action]:
        """All members end at once."""
        group.phase, group.then, group.until = "leaving", then, now + self.policy.stop_grace_s
        rest = group.alive()
        return [Kill(member.name, member.pid) for member in rest] if rest else self._settle(group, now)

    def _settle(self, group: Group, now: float) -> list[Action]:
        """The last member is gone."""
        was_ready, group.ready_since = group.ready_since is not None, None
        group.phase, group.until = "down", None
        if group.then == "stay":
            return self._advance_stop(now) if self.stopping else []
        if group.then == "restart":
            return self._spawn(group, now)
        if group.role == "worker" and (group.refused or group.failed(self.policy)):
            ends = self._end_standbys(group, now)
        elif all(self._standby(member.name) is not None for member in group.members):
            return [Say("info", group.name, "its standby takes over"), *self._spawn(group, now)]
        else:
            ends = []
        if group.refused:
            text = "its configuration cannot be used; it is not started again until: headrace restart " + group.name
            return [Say("error", group.name, text), *ends]
        if group.failed(self.policy):
            group.until = now + self.policy.failed_retry_s
            text = f"FAILED: died {group.deaths} times in a row; next try in {self.policy.failed_retry_s:.0f} s"
            return [Say("error", group.name, text), *ends]
        if was_ready and group.deaths == 1:
            return [Say("info", group.name, "starting again"), *self._spawn(group, now)]
        cap = self.policy.ready_delay_cap_s if was_ready else self.policy.delay_cap_s
        delay = min(cap, self.policy.delay_s * 2.0 ** min(group.deaths - 1, 30))
        group.until = now + delay
        return [Say("info", group.name, f"starting again in {delay:.1f} s")]

    def _advance_stop(self, now: float) -> list[Action]:
        """Begin the next stage of the end when the one before is over."""
        actions: list[Action] = []
        while not self._finished:
            stage = STOP_ORDER[: self._stage + 1]
            if any(group.alive() for group in self.groups.values() if group.role in stage):
                return actions
            if self._stage + 1 == len(STOP_ORDER):
                self._finished = True
                actions.append(Finished())
                return actions
            self._stage += 1
            role = STOP_ORDER[self._stage]
            left = max(0.0, self._stop_by - now)
            deadline = left if role == "ingress" else min(left, self.policy.short_stop_s)
            for group in [group for group in self.groups.values() if group.role == role]:
                if group.alive():
                    end = self._leave(group, "stay", deadline, now) if deadline > 0 else self._kill(group, "stay", now)
                    actions += end
                else:
                    group.phase, group.then, group.until = "down", "stay", None
        return actions

    def _members(self) -> Iterator[Member]:
        for group in self.groups.values():
            yield from group.members

    def _member(self, name: str) -> Member:
        return next(member for member in self._members() if member.name == name)

    def _group(self, name: str) -> Group:
        return self.groups[unit_named(name).group]

    def _known(self, name: str) -> Group:
        for group in self.groups.values():
            if name == group.name or any(member.name == name for member in group.members):
                return group
        known = ", ".join(member.name for member in self._members())
        raise Refused(f"there is no process {name!r}; there are {known}")

    def _running(self, name: str) -> Group:
        group = self._known(name)
        if group.phase != "up":
            raise Refused(f"{name} is not running")
        return group


def _may_start(standby: Group) -> bool:
    """Whether one that is down waits for nothing but its worker."""
    return standby.until is None and not standby.refused and standby.then != "stay"


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
