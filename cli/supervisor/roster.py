"""Who belongs to whom: the groups of a host by name, a worker's standby, a model's other replicas. Nothing is decided
here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bus.names import standby_name, worker_of
from cli.supervisor.group import Group, Member
from cli.supervisor.plan import Unit, unit_named


class Refused(Exception):
    """A command that makes no sense now; the message says why."""


class Roster:
    """All groups of a host, in the order in which they are started."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.groups: dict[str, Group] = {}
        for unit in units:
            self.add(unit)

    def add(self, unit: Unit) -> Group:
        """One more process; the group that it is in."""
        group = self.groups.setdefault(unit.group, Group(unit.group, unit.role))
        group.members.append(Member(unit.name))
        return group

    def members(self) -> Iterator[Member]:
        """Every process."""
        for group in self.groups.values():
            yield from group.members

    def member(self, name: str) -> Member:
        """The process of that name."""
        return next(member for member in self.members() if member.name == name)

    def group_of(self, name: str) -> Group:
        """The group that a process is in."""
        return self.groups[unit_named(name).group]

    def known(self, name: str) -> Group:
        """The group that an operator means, by its name or a member's.

        Raises:
            Refused: there is none.
        """
        for group in self.groups.values():
            if name == group.name or any(member.name == name for member in group.members):
                return group
        known = ", ".join(member.name for member in self.members())
        raise Refused(f"there is no process {name!r}; there are {known}")

    def running(self, name: str) -> Group:
        """The same, where it is up.

        Raises:
            Refused: there is none, or it is not.
        """
        group = self.known(name)
        if group.phase != "up":
            raise Refused(f"{name} is not running")
        return group

    def standby(self, worker: str) -> Group | None:
        """The group of a worker's standby, where it runs and may take over."""
        if not worker.startswith("worker@"):
            return None
        standby = self.groups.get(standby_name(worker))
        return standby if standby is not None and standby.phase == "up" and standby.alive() else None

    def worker_group(self, standby: Group) -> Group:
        """The group of the worker that a standby stands by."""
        return self.group_of(worker_of(standby.members[0].name))

    def others_serve(self, group: Group) -> bool:
        """Whether another replica of the same model takes new requests."""
        return any(
            other is not group and other.role == "worker" and other.phase == "up" and not other.held
            and other.name.rpartition(".")[0] == group.name.rpartition(".")[0]
            and all(member.pid and member.reported == "ready" for member in other.members)
            for other in self.groups.values()
        )  # fmt: skip
