"""What systemd and the journal can tell a report: the last lines of the processes, what systemd said of the units, and
how these are. Waits for journalctl and systemctl, but not for long."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from bus.logread.journald import NAMESPACE
from cli.control import Unreachable
from cli.systemd.ends import End
from cli.systemd.running import show_text

LINES: Final = 5_000  # of everybody
OF_ONE: Final = 1_000  # of a run of a unit that ended badly
OF_SYSTEMD: Final = 1_000
_PATIENCE_S: Final = 20.0
_OURS: Final = ("--namespace", NAMESPACE)
_SHORT: Final = ("--output", "short-iso-precise")
_PROPERTIES: Final = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "MainPID", "ExecMainCode", "ExecMainStatus",
    "ExecMainStartTimestamp", "ExecMainExitTimestamp", "StatusText", "MemoryCurrent", "MemoryPeak", "MemoryMax",
    "TasksCurrent", "InvocationID", "DropInPaths", "NFileDescriptorStore", "CPUUsageNSec", "FragmentPath",
)  # fmt: skip


def logs(ends: Iterable[End]) -> Iterator[tuple[str, list[str]]]:
    """Names of logs, and what prints each."""
    yield "journal", [*_OURS, *_SHORT, f"--lines={LINES}"]
    yield "systemd", [*_SHORT, f"--lines={OF_SYSTEMD}", "--unit=headrace-*", "_PID=1"]
    for end in ends:
        name = f"{end.unit.removesuffix('.service')}.{end.invocation[:8]}"
        yield name, [*_OURS, *_SHORT, f"--lines={OF_ONE}", f"_SYSTEMD_INVOCATION_ID={end.invocation}"]


def journal(asked: Iterable[str]) -> bytes:
    """What journalctl prints.

    Raises:
        Unreachable: it is not there, fails or takes too long.
    """
    command = ["journalctl", "--no-pager", "--quiet", "--all", *asked]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"journalctl: {error}") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise Unreachable(f"{' '.join(command)}: exit code {done.returncode}: {said or 'it may not read this journal'}")
    return done.stdout


def process_of_run(invocation: str) -> str:
    """The name under which that run of a unit logged last; empty where it is not known."""
    asked = [*_OURS, "--output=json", "--output-fields=HEADRACE_PROCESS", "--lines=50", "--reverse"]
    try:
        lines = journal([*asked, f"_SYSTEMD_INVOCATION_ID={invocation}"]).splitlines()
        names = (msgspec.json.decode(line, type=dict[str, Any]).get("HEADRACE_PROCESS") for line in lines)
        return next((name for name in names if isinstance(name, str)), "")
    except (Unreachable, msgspec.DecodeError):
        return ""


def units() -> list[dict[str, str]]:
    """All units of headrace, with what matters of each.

    Raises:
        Unreachable: systemctl is not there, or does not come back.
    """
    blocks = show_text(_PROPERTIES, "headrace-*").strip().split("\n\n")
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks if block]
