"""`headrace restart`: one process, or everything, one after the other and each ready before the next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from bus.build import BUILD
from bus.config import ConfigError, load_config
from bus.messages.control import Fleet, Rejected, Restart, UnitStatus
from bus.names import SUPERVISOR
from cli.control import Caller, Unreachable, running_names
from cli.keeper import Keeper, ask_supervisor, keeper_of
from cli.models import missing_models
from cli.rolling import Step, judge, steps_for
from cli.supervisor.plan import desired_units, fingerprint
from cli.supervisor.state import CONFIG_COPY

START_S: Final = 600.0  # for loading weights
SUCCEED_S: Final = 30.0  # for a supervisor to go on as another program
LOOK_S: Final = 0.1
_LAST_WORDS: Final = 8


class Done(msgspec.Struct, frozen=True):
    """A process that is back, in `headrace restart --json`."""

    name: str
    seconds: float


class Report(msgspec.Struct):
    """What was done. `failed` is empty where all went well; `left` are those that run on as before."""

    restarted: list[Done] = []
    failed: str = ""
    reason: str = ""
    left: list[str] = []


class NotBack(Exception):
    """A process did not come back; the message says why."""


def restart(name: str, deadline_s: float, *, as_json: bool, reason: str = "") -> int:
    """Restart one process with the other ranks of its replica, or everything where no name is given."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Caller() as caller:
        try:
            if (keeper := keeper_of(caller)) is None:
                console.print("nobody here starts again what ends: neither a supervisor nor systemd", markup=False)
                console.print("headrace up starts one, which adopts what runs; or: systemctl start headrace.target")
                return 1
            fleet = keeper.fleet()
            if not name and (code := _check(console, caller, fleet)) != 0:
                return code
        except Unreachable as error:
            console.print(f"{error}", markup=False)
            return 1
        steps = steps_for([*([SUPERVISOR] if _supervised(caller) else []), *(unit.name for unit in fleet.units)])
        if name:
            steps = [next((step for step in steps if name in step.members), Step((name,)))]
        report = _Roll(console, caller, keeper, fleet, deadline_s, reason).run(steps)
    if as_json:
        print(msgspec.json.encode(report).decode())
    if not report.failed:
        return 0
    console.print(f"✖ {report.failed}: {report.reason}", markup=False, style="red")
    for line in keeper.last_words(report.failed, _LAST_WORDS):
        console.print("    " + line, markup=False)
    if report.left:
        console.print(f"not restarted, running as before: {', '.join(report.left)}", markup=False)
        console.print("when it is put right, again: headrace restart --all")
    return 1


def _supervised(caller: Caller) -> bool:
    return SUPERVISOR in running_names(caller.run)


class _Roll:
    """One rolling restart. What runs already when it begins is told by `fleet`."""

    def __init__(
        self, console: Console, caller: Caller, keeper: Keeper, fleet: Fleet, deadline_s: float, reason: str
    ) -> None:
        self._reason = reason
        self._console, self._caller, self._keeper, self._deadline_s = console, caller, keeper, deadline_s
        self._before = {unit.name: unit.pid for unit in fleet.units}

    def run(self, steps: list[Step]) -> Report:
        report, waiting, count = Report(), list(steps), len(steps)
        while waiting:
            step = waiting.pop(0)
            place = f"{count - len(waiting)} of {count}  " if count > 1 else ""
            began = time.monotonic()
            try:
                with self._console.status(f"{place}{step}") as status:
                    if step.name == SUPERVISOR:
                        self._succeed()
                    else:
                        self._one(step, lambda says, p=place, s=step: status.update(f"{p}{s}  {says}"))  # type: ignore[misc]
                if step.name == SUPERVISOR and count > 1:  # it may have read another configuration
                    waiting = steps_for(unit.name for unit in self._keeper.fleet().units)
                    count = 1 + len(waiting)
            except (NotBack, Unreachable) as error:
                report.failed, report.reason = step.name, f"{error}"
                report.left = [name for later in waiting for name in later.members]
                break
            took_s = round(time.monotonic() - began, 2)
            report.restarted += [Done(name, took_s) for name in step.members]
            self._console.print(f"[green]✓[/] {place}{step}  {took_s:.1f} s")
        return report

    def _one(self, step: Step, show: Callable[[str], object]) -> None:
        """Restart it, unless it was started since this restart began, and wait until it is back.

        Raises:
            NotBack: it does not come back.
            Unreachable: the supervisor is gone.
        """
        serving = self._replicas_ready(step)
        units = self._units()
        as_before = [units[name].pid == self._before.get(name) for name in step.members if name in units]
        if all(as_before) or any(units[name].state == "failed" for name in step.members if name in units):
            answer = self._keeper.restart(step.members, self._deadline_s, self._reason)
            if isinstance(answer, Rejected):
                raise NotBack(answer.reason)
        end = time.monotonic() + self._deadline_s + START_S
        while time.monotonic() < end:
            units = self._units()
            match judge(step, self._before, units):
                case "failed":
                    raise NotBack(f"failed: {' · '.join(filter(None, (_last_exit(units, n) for n in step.members)))}")
                case "back" if self._replicas_ready(step) >= serving:
                    return
                case _:
                    show(" · ".join(units[name].state for name in step.members if name in units))
            time.sleep(LOOK_S)
        raise NotBack(f"is not ready after {self._deadline_s + START_S:.0f} s; look on with: headrace status")

    def _succeed(self) -> None:
        """The supervisor goes on as the program that this command is of."""
        before = self._caller.statuses([SUPERVISOR]).get(SUPERVISOR)
        answer = ask_supervisor(self._caller, Restart(0, SUPERVISOR, self._deadline_s, sys.executable, self._reason))
        if isinstance(answer, Rejected):
            raise NotBack(answer.reason)
        end = time.monotonic() + SUCCEED_S
        while time.monotonic() < end:
            if SUPERVISOR not in running_names():
                raise NotBack("it ended instead of going on; everything else runs on; put it right, then: headrace up")
            now = self._caller.statuses([SUPERVISOR], LOOK_S).get(SUPERVISOR)
            if now is not None and now.state == "ready" and (before is None or now.epoch != before.epoch):
                return
        raise NotBack(f"is not ready after {SUCCEED_S:.0f} s")

    def _units(self) -> dict[str, UnitStatus]:
        return {unit.name: unit for unit in self._keeper.fleet().units}

    def _replicas_ready(self, step: Step) -> int:
        """How many replicas take requests, of the model that a step concerns."""
        status = self._caller.statuses([step.scheduler]).get(step.scheduler) if step.scheduler else None
        return sum(model.replicas_ready for model in status.models) if status is not None else 0


def _last_exit(units: dict[str, UnitStatus], name: str) -> str:
    return units[name].last_exit if name in units else ""


def _check(console: Console, caller: Caller, fleet: Fleet) -> int:
    """Whether everything could come back, as this release and as the configuration file now says. An exit code."""
    path = None if fleet.config == "the defaults" else Path(fleet.config)
    try:
        config = load_config(path)
        problems = missing_models(config)
    except ConfigError as error:
        problems = [str(error)]
    if problems:
        for problem in problems:
            console.print(problem, markup=False)
        console.print("nothing was restarted")
        return 78
    if not _supervised(caller):
        wanted, there = {unit.name for unit in desired_units(config)}, {unit.name for unit in fleet.units}
        if wanted - there:
            console.print(f"no units for {', '.join(sorted(wanted - there))}: headrace systemd install", markup=False)
            return 1
        return 0
    running = load_config(caller.run / CONFIG_COPY)
    if config.kv != running.kv:
        console.print(f"{path}: \\[kv] has changed, and the arena is in use: headrace down, then headrace up")
        return 1
    if (layouts := _layouts(caller)) is not None and layouts[0] != layouts[1]:
        console.print(
            f"headrace {BUILD} keeps its arena in layout {layouts[0]}, the running one has layout {layouts[1]}: "
            "headrace down, then headrace up"
        )
        return 1
    names = {unit.name for unit in (*desired_units(config), *desired_units(running))}
    if changed := sorted(name for name in names if fingerprint(config, name) != fingerprint(running, name)):
        console.print(f"{path} has changed; this applies it to: {', '.join(changed)}", markup=False)
    return 0


def _layouts(caller: Caller) -> tuple[int, int] | None:
    """Version of this release's arena layout, and of the running arena's; None where there is none."""
    from kv.client import LAYOUT_VERSION, PagesDenied, layout_of_arena

    try:
        return LAYOUT_VERSION, layout_of_arena(caller.visitor)
    except (OSError, PagesDenied):
        return None
