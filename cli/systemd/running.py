"""The units that run: what systemd says of them, and restarts. `headrace status`, `restart` and `down` come here where
systemd is the keeper. It is asked through systemctl, so that polkit decides for those who are not root.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from bus.messages.common import ProcessState
from bus.messages.control import Fleet, Ok, Rejected, Stop, UnitStatus
from bus.names import parse_process
from cli.control import Caller, Unreachable, running_names
from cli.supervisor.group import describe_exit
from cli.systemd import ends, witness
from cli.systemd.units import process_of, unit_of

RUN: Final = Path("/run/headrace")  # what the units say
PROPERTIES: Final = (
    "Id", "LoadState", "MainPID", "ActiveState", "NRestarts", "ExecMainStartTimestampMonotonic", "ExecMainCode",
    "ExecMainStatus", "ExecStart",
)  # fmt: skip
_STATES: Final[Mapping[str, ProcessState]] = {
    "active": "ready",
    "activating": "starting",
    "deactivating": "draining",
    "failed": "failed",
    "inactive": "stopped",
}
_EXITED: Final = "1"  # CLD_EXITED; what else a process can do is be killed
_PATIENCE_S: Final = 30.0


def parse_units(text: str, names: Mapping[int, str], now_s: float) -> dict[str, UnitStatus]:
    """What `systemctl show` prints, by unit.

    Args:
        names: of the processes that live, by pid: of a worker and its standby, either may be either.
        now_s: CLOCK_MONOTONIC.
    """
    found: dict[str, UnitStatus] = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit = values.get("Id", "")
        process = process_of(unit)
        if process is None or values.get("LoadState") != "loaded":
            continue
        pid = int(values["MainPID"])
        exited = values["ExecMainCode"] == _EXITED
        status = int(values["ExecMainStatus"])
        ended = values["ExecMainCode"] != "0" and not pid
        found[unit] = UnitStatus(
            names.get(pid, process) if pid else process,
            pid,
            _STATES.get(values["ActiveState"], "starting"),
            int(values["NRestarts"]),
            now_s - int(values["ExecMainStartTimestampMonotonic"]) / 1e6 if pid else 0.0,
            describe_exit(status if exited else -status, asked=values["ActiveState"] == "inactive") if ended else "",
        )
    return found


def config_of(text: str) -> str:
    """The configuration file that the units name; empty where none does."""
    match = re.search(r"^ExecStart=.* -c (\S+) ;", text, re.MULTILINE)
    return match[1] if match else ""


def kept_here(run: Path) -> bool:
    """Whether it may be systemd that keeps the processes of this run directory. Cheap."""
    return run == RUN and Path("/run/systemd/system").is_dir()


def loaded(run: Path) -> bool:
    """Whether systemd has units for this run directory that run or should."""
    return kept_here(run) and bool(parse_units(show_text(), {}, 0.0))


class SystemdKeeper:
    """systemd, asked through systemctl.

    Args:
        ask_password: let polkit ask for one at the terminal; a screen has it for itself.
    """

    def __init__(self, caller: Caller, *, ask_password: bool = True) -> None:
        self._caller = caller
        self._manners = () if ask_password else ("--no-ask-password",)

    @classmethod
    def find(cls, caller: Caller, *, ask_password: bool = True) -> SystemdKeeper | None:
        """It, where it has units of headrace loaded for the caller's run directory."""
        return cls(caller, ask_password=ask_password) if loaded(caller.run) else None

    def fleet(self) -> Fleet:
        """Every unit that is loaded: those of the target are, whether they run or not."""
        text = show_text()
        units = self._units(text)
        if not units:
            raise Unreachable("systemd has no units of headrace: headrace systemd install")
        return Fleet(0, tuple(units.values()), config_of(text))

    def restart(self, members: Sequence[str], deadline_s: float, reason: str = "") -> Ok | Rejected:
        """An ingress gets its time to answer by being told itself: systemd starts again what ends. All others hand on
        what they have at once. Who asks must be an admin at our doors and for polkit; a process writes down what
        systemd was asked for."""
        running = running_names(self._caller.run)
        if all(parse_process(name).role == "ingress" and name in running for name in members):
            answers = self._caller.ask_all({name: Stop(0, deadline_s, reason) for name in members})
            if all(isinstance(answers.get(name), Ok) for name in members):
                return Ok(0, "drains, and is started again")
        by_name = {status.name: unit for unit, status in self._units(show_text()).items()}
        units = [by_name.get(name, unit_of(name)) for name in members]
        who = witness.find(self._caller, members)
        outcome: Ok | Rejected
        if why := witness.forbids(self._caller, who):
            outcome = Rejected(0, why)
        else:
            _systemctl("reset-failed", *self._manners, *units)
            done = _systemctl("restart", "--no-block", *self._manners, *units)
            outcome = Rejected(0, done.stderr.strip()) if done.returncode else Ok(0, "is being restarted")
        return witness.tell(self._caller, who, "restart" if deadline_s else "kill", members, outcome, reason)

    def last_words(self, name: str, lines: int) -> list[str]:
        """From headrace's own journal."""
        unit = unit_of(name)
        asked = ["journalctl", "--namespace=headrace", f"--unit={unit}"]
        told = subprocess.run([*asked, "--no-pager", "-o", "cat", "-n", str(lines)], capture_output=True, text=True)
        return [*told.stdout.splitlines(), f"all of it: {' '.join(asked)}"]

    def _units(self, text: str) -> dict[str, UnitStatus]:
        names = {pid: name for name, pid in running_names(self._caller.run).items()}
        units = parse_units(text, names, time.clock_gettime(time.CLOCK_MONOTONIC))
        for unit, end in ends.last(self._caller.run).items():
            if unit in units and not units[unit].last_exit:
                units[unit] = replace(units[unit], last_exit=end.cause)
        return units


def stop_everything() -> int:
    """Stop the target, and wait for what drains."""
    done = _systemctl("stop", "headrace.target", "headrace-*.service", timeout_s=None)
    if done.returncode:
        print(done.stderr.strip())
    return min(done.returncode, 1)


def show_text(properties: Sequence[str] = PROPERTIES, pattern: str = "headrace-*.service") -> str:
    """What `systemctl show` prints of units: blocks of `Name=value`.

    Raises:
        Unreachable: systemctl is not there, or does not come back.
    """
    return _systemctl("show", pattern, f"--property={','.join(properties)}").stdout


def _systemctl(*arguments: str, timeout_s: float | None = _PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run it and return what it said.

    Raises:
        Unreachable: it is not there, or does not come back.
    """
    try:
        return subprocess.run(
            ["systemctl", "--no-pager", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"systemctl: {error}") from None
