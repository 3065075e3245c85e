"""The plan of a rolling restart: who after whom, and when one is back. Pure.

Those who are spoken to go before those who speak to them (kv, metrics, accounts, schedulers, workers, ingresses,
batch): in an upgrade no process ever meets an older one at a door that it knocks at; but ingresses and batch knock at
each other's. A standby goes before its worker, whose place it takes. The supervisor goes first of all, since it starts
the others: from then on they are of its release and its configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from bus.messages.control import UnitStatus
from bus.names import SUPERVISOR, parse_process, parse_worker, scheduler_name
from cli.supervisor.plan import unit_named

Verdict = Literal["under way", "back", "failed"]
_ORDER: Final = ("supervisor", "kv", "metrics", "accounts", "scheduler", "standby", "worker", "ingress", "batch")


class Step(NamedTuple):
    """Processes that are restarted together: one, or the ranks of a replica."""

    members: tuple[str, ...]

    @property
    def name(self) -> str:
        """One that stands for all of them in an order to the supervisor."""
        return self.members[0]

    @property
    def scheduler(self) -> str:
        """The scheduler whose replicas it makes fewer for a while; empty where there is none."""
        role, instance = parse_process(self.name)
        if role == "worker":
            return scheduler_name(parse_worker(instance).model)
        return self.name if role == "scheduler" else ""

    def __str__(self) -> str:
        return ", ".join(self.members)


def steps_for(names: Iterable[str]) -> list[Step]:
    """The steps of a rolling restart of these processes, in order."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: _ORDER.index(parse_process(name).role)):
        groups.setdefault(SUPERVISOR if name == SUPERVISOR else unit_named(name).group, []).append(name)
    return [Step(tuple(members)) for members in groups.values()]


def judge(step: Step, before: Mapping[str, int], units: Mapping[str, UnitStatus]) -> Verdict:
    """Whether all of a step are back.

    Args:
        before: pids from before the restart.
        units: what the supervisor says now.
    """
    members = [units[name] for name in step.members if name in units]
    if any(unit.state == "failed" for unit in members):
        return "failed"
    back = len(members) == len(step.members) and all(
        unit.state == "ready" and unit.pid != before.get(unit.name) for unit in members
    )
    return "back" if back else "under way"
