"""What the supervisor decides: when to start, restart, give up on, drain and stop a process. Pure: no clock, no pid
is touched here. Callers say what happened and when (seconds, monotonic); they get back what to do.

| module      | what is there                                              |
|-------------|------------------------------------------------------------|
| `actions`   | what can be asked for                                      |
| `group`     | the unit of restart, its phases, the numbers of the rules  |
| `roster`    | who belongs to whom                                        |
| `lifecycle` | how a group is started, ended and started again; standbys  |
| `core`      | what happens to a host's processes and what operators want |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from bus.messages.common import ProcessState
from cli.supervisor.actions import Action, AskDrain, AskUndrain, Finished, Kill, Say
from cli.supervisor.group import Policy, Then, describe_exit
from cli.supervisor.lifecycle import Lifecycle
from cli.supervisor.plan import STOP_ORDER, Unit, unit_named
from cli.supervisor.roster import Refused, Roster


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
        self.roster = Roster(units)
        self._life = Lifecycle(self.roster, self.policy)
        self.stopping = False
        self._stop_by = 0.0
        self._stage = -1
        self._finished = False

    # What happens

    def start(self, adopted: Mapping[str, Adopted], now: float) -> list[Action]:
        """The beginning. `adopted` are processes that run already, by name.

        A group of which only some members run is restarted whole; what runs but is not wanted any more is ended.
        """
        actions: list[Action] = []
        for name in adopted.keys() - {member.name for member in self.roster.members()}:
            group = self.roster.add(unit_named(name))
            group.then = "stay"
        for name, running in adopted.items():
            member = self.roster.member(name)
            member.pid, member.since, member.starts = running.pid, running.since, running.starts
            self.roster.group_of(name).held |= running.held
        for group in self.roster.groups.values():
            alive = group.alive()
            if group.then == "stay":
                actions.append(Say("warning", group.name, "is not in the configuration any more; ending it"))
                actions += self._life.leave(group, "stay", self.policy.short_stop_s, now)
            elif not alive and group.role != "standby":
                actions += self._life.spawn(group, now)
            elif not alive:
                continue  # when its worker is ready
            elif len(alive) == len(group.members):
                group.phase = "up"
                actions += [Say("info", member.name, f"was running already (pid {member.pid})") for member in alive]
            else:
                actions.append(Say("warning", group.name, "only some of its ranks were running; restarting all"))
                actions += self._life.kill(group, "restart", now)
        return actions

    def reported(self, name: str, pid: int, state: ProcessState, idle: bool, now: float) -> list[Action]:
        """A process said how it is. `idle`: nothing is in its hands."""
        member, group = self.roster.member(name), self.roster.group_of(name)
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
                actions += [] if self.stopping else self._life.start_standbys(group, now)
        elif state == "starting":
            group.ready_since = None
        if group.held and state == "ready" and group.phase == "up":
            actions.append(AskDrain(name, self.policy.short_stop_s))
        if group.phase == "draining" and idle and state != "ready":
            actions += self._life.leave(group, "restart", 0.0, now)
        return actions

    def spawned(self, name: str, pid: int, now: float) -> list[Action]:
        """A `Spawn` was carried out."""
        member = self.roster.member(name)
        member.pid, member.since = pid, now
        group = self.roster.group_of(name)
        if group.phase == "up":
            return []
        # Another rank could not be started: this one, whose start was under way, is of no use. It leaves first.
        group.phase, group.until = "leaving", now + self.policy.stop_grace_s
        return [Kill(name, pid)]

    def spawn_failed(self, name: str, reason: str, now: float) -> list[Action]:
        """A `Spawn` could not be carried out: like a death before readiness."""
        group, member = self.roster.group_of(name), self.roster.member(name)
        member.last_exit = reason
        self._life.count_death(group, 1, now)
        then: Then = "stay" if group.then == "stay" else "retry"  # its turn to end may have come meanwhile
        return [Say("error", name, f"could not be started: {reason}"), *self._life.kill(group, then, now)]

    def exited(self, name: str, pid: int, code: int | None, now: float) -> list[Action]:
        """A process has ended. `code` is negative for a signal, as in `subprocess`, and None where it cannot be known:
        the exit status of an adopted process went to another parent."""
        member, group = self.roster.member(name), self.roster.group_of(name)
        if member.pid != pid or not pid:
            return []
        member.pid, member.reported = 0, "starting"
        member.last_exit = describe_exit(code, asked=group.phase == "leaving")
        if group.phase == "leaving":
            if group.alive():
                return []
            actions = self._life.settle(group, now)
            return actions + self._advance_stop(now) if self.stopping and group.then == "stay" else actions
        actions = [Say("warning", name, f"ended unexpectedly: {member.last_exit}")]
        self._life.count_death(group, code, now)
        then: Then = "restart" if group.phase == "draining" else "retry"
        # The others are of no use without it: they may be stuck waiting for it.
        return actions + self._life.kill(group, then, now)

    def hung(self, name: str, pid: int) -> list[Action]:
        """A process has not answered for too long: it is killed, and comes back as after any other death."""
        member = self.roster.member(name)
        if member.pid != pid or not pid or self.roster.group_of(name).phase == "leaving":
            return []
        return [Say("error", name, "does not answer any more; killing it"), Kill(name, pid)]

    def tick(self, now: float) -> list[Action]:
        """Time has passed. Call it no later than `next_wake`."""
        actions: list[Action] = []
        for group in list(self.roster.groups.values()):
            if group.until is None or group.until > now:
                continue
            match group.phase:
                case "down":
                    actions += self._life.spawn(group, now)
                case "draining":
                    actions.append(Say("info", group.name, "its deadline is over; its requests go on elsewhere"))
                    actions += self._life.leave(group, "restart", 0.0, now)
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
        group = self.roster.running(name)
        if group.role == "standby":
            raise Refused(f"{name} has nothing to drain; it waits")
        group.held = True
        return [AskDrain(member.name, deadline_s) for member in group.alive()]

    def undrain(self, name: str) -> list[Action]:
        """The opposite of `drain`.

        Raises:
            Refused: unknown, or not running.
        """
        group = self.roster.running(name)
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
        group = self.roster.known(name)
        if group.then == "stay":
            raise Refused(f"{name} is not in the configuration any more")
        group.deaths = group.stillborn = 0
        group.held = False
        if group.phase == "down":
            return self._life.spawn(group, now)
        if group.phase == "leaving":
            group.then = "restart"
            return []
        if group.phase == "draining":
            return []
        if deadline_s <= 0:
            return self._life.kill(group, "restart", now)
        if group.role == "worker" and self.roster.others_serve(group):
            group.phase, group.until = "draining", now + deadline_s
            return [AskDrain(member.name, deadline_s) for member in group.alive()]
        return self._life.leave(group, "restart", 0.0 if group.role in ("scheduler", "worker") else deadline_s, now)

    def stop(self, deadline_s: float, now: float) -> list[Action]:
        """End everything: those in front first, so that what is under way can end; kv last. Asked again with a
        deadline of 0, it kills what is left."""
        self._stop_by = now + deadline_s
        if self.stopping:
            for group in self.roster.groups.values():
                if group.phase == "leaving" and group.until is not None:
                    group.until = min(group.until, self._stop_by)
            return self.tick(now)
        self.stopping = True
        return self._advance_stop(now)

    # What can be seen

    def units(self) -> Iterator[UnitView]:
        """Every process, in the order in which they are started."""
        for group in self.roster.groups.values():
            for member in group.members:
                state = group.state(member, self.policy)
                yield UnitView(
                    member.name,
                    member.pid,
                    state,
                    max(0, member.starts - 1),
                    member.since,
                    member.last_exit,
                    group.held,
                )

    def leaves(self, name: str) -> bool:
        """Whether a process is about to end because it was told to."""
        return self.roster.group_of(name).phase == "leaving"

    def next_wake(self) -> float | None:
        """When `tick` must be called at the latest."""
        return min((group.until for group in self.roster.groups.values() if group.until is not None), default=None)

    # How everything ends

    def _advance_stop(self, now: float) -> list[Action]:
        """Begin the next stage of the end when the one before is over."""
        actions: list[Action] = []
        while not self._finished:
            stage = STOP_ORDER[: self._stage + 1]
            if any(group.alive() for group in self.roster.groups.values() if group.role in stage):
                return actions
            if self._stage + 1 == len(STOP_ORDER):
                self._finished = True
                actions.append(Finished())
                return actions
            self._stage += 1
            role = STOP_ORDER[self._stage]
            left = max(0.0, self._stop_by - now)
            deadline = left if role == "ingress" else min(left, self.policy.short_stop_s)
            for group in [group for group in self.roster.groups.values() if group.role == role]:
                if group.alive():
                    end = self._life.kill if deadline <= 0 else partial(self._life.leave, deadline_s=deadline)
                    actions += end(group, "stay", now=now)
                else:
                    group.phase, group.then, group.until = "down", "stay", None
        return actions
