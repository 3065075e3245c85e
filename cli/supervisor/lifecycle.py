"""How a group is started, ended, and started again: one group at a time, whatever the reason.

To end with a deadline of 0 is not to be killed: a process then hands on what it has in hand, between two steps, and
ends.

A *standby* is a group of its own: a process that has everything loaded and becomes the worker when the kernel gives it
the worker's name, which the worker's death does, whatever is decided here. So where a worker is to be started and its
standby runs, nothing is started: the standby's process is the worker's from then on. The next one is started when the
worker is ready.
"""

from __future__ import annotations

from bus.names import standby_name
from cli.supervisor.actions import Action, AskStop, Kill, Promote, Say, Spawn
from cli.supervisor.group import EXIT_CONFIG, Group, Policy, Then
from cli.supervisor.roster import Roster


class Lifecycle:
    """Moves the groups of a roster from phase to phase, and says what must be done for it."""

    def __init__(self, roster: Roster, policy: Policy) -> None:
        self._roster, self._policy = roster, policy

    def spawn(self, group: Group, now: float) -> list[Action]:
        """All members start, or their standbys become them."""
        if group.role == "standby" and self._roster.worker_group(group).ready_since is None:
            # It would be in the way of a worker that starts.
            group.phase, group.until, group.refused = "down", None, False
            return []
        group.phase, group.then, group.until, group.ready_since, group.refused = "up", "retry", None, None, False
        actions: list[Action] = []
        for member in group.members:
            member.since, member.starts, member.reported = now, member.starts + 1, "starting"
            if (standby := self._roster.standby(member.name)) is None:
                actions.append(Spawn(member.name))
                continue
            waiting = standby.members[0]
            member.pid, waiting.pid, waiting.reported = waiting.pid, 0, "starting"
            standby.phase, standby.until, standby.ready_since = "down", None, None
            standby.deaths = standby.stillborn = 0
            actions.append(Promote(member.name, waiting.name))
        return actions

    def start_standbys(self, group: Group, now: float) -> list[Action]:
        """Of a group that has become ready."""
        actions: list[Action] = []
        for member in group.members:
            standby = self._roster.groups.get(standby_name(member.name)) if group.role == "worker" else None
            if standby is not None and standby.phase == "down" and _may_start(standby):
                actions += self.spawn(standby, now)
        return actions

    def end_standbys(self, group: Group, now: float) -> list[Action]:
        """Of a group that must not run: they may have its names already."""
        standbys = [standby for member in group.members if (standby := self._roster.standby(member.name)) is not None]
        return [action for standby in standbys for action in self.kill(standby, "restart", now)]

    def count_death(self, group: Group, code: int | None, now: float) -> None:
        """A member has died, or could not be started. What follows from the count, `settle` says."""
        if group.ready_since is None:
            group.stillborn += 1
        elif now - group.ready_since >= self._policy.stable_s:
            group.deaths = 0
        group.deaths += 1
        group.refused = group.refused or code == EXIT_CONFIG

    def leave(self, group: Group, then: Then, deadline_s: float, now: float) -> list[Action]:
        """All members end by themselves, and finish within the deadline what they have in hand."""
        patience_s = max(deadline_s, self._policy.hand_over_s) + self._policy.stop_grace_s
        group.phase, group.then, group.until = "leaving", then, now + patience_s
        rest = group.alive()
        return [AskStop(member.name, deadline_s) for member in rest] if rest else self.settle(group, now)

    def kill(self, group: Group, then: Then, now: float) -> list[Action]:
        """All members end at once."""
        group.phase, group.then, group.until = "leaving", then, now + self._policy.stop_grace_s
        rest = group.alive()
        return [Kill(member.name, member.pid) for member in rest] if rest else self.settle(group, now)

    def settle(self, group: Group, now: float) -> list[Action]:
        """The last member is gone."""
        was_ready, group.ready_since = group.ready_since is not None, None
        group.phase, group.until = "down", None
        if group.then == "stay":
            return []
        if group.then == "restart":
            return self.spawn(group, now)
        if group.role == "worker" and (group.refused or group.failed(self._policy)):
            ends = self.end_standbys(group, now)
        elif all(self._roster.standby(member.name) is not None for member in group.members):
            return [Say("info", group.name, "its standby takes over"), *self.spawn(group, now)]
        else:
            ends = []
        if group.refused:
            text = "its configuration cannot be used; it is not started again until: headrace restart " + group.name
            return [Say("error", group.name, text), *ends]
        if group.failed(self._policy):
            group.until = now + self._policy.failed_retry_s
            text = f"FAILED: died {group.deaths} times in a row; next try in {self._policy.failed_retry_s:.0f} s"
            return [Say("error", group.name, text), *ends]
        if was_ready and group.deaths == 1:
            return [Say("info", group.name, "starting again"), *self.spawn(group, now)]
        cap = self._policy.ready_delay_cap_s if was_ready else self._policy.delay_cap_s
        delay = min(cap, self._policy.delay_s * 2.0 ** min(group.deaths - 1, 30))
        group.until = now + delay
        return [Say("info", group.name, f"starting again in {delay:.1f} s")]


def _may_start(standby: Group) -> bool:
    """Whether one that is down waits for nothing but its worker."""
    return standby.until is None and not standby.refused and standby.then != "stay"
