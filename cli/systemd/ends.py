"""How units ended, as they write it down on their way out: which ends are crashes, and which is worth a report now.
Pure, but for taking and keeping the notes.

A unit that ends badly leaves a note in `ended` in the run directory (`ExecStopPost=` of each template; its name is the
unit's, so a loop of crashes is one note). `headrace-crashes.path` sees it there and starts
`headrace-crash-report.service`, which takes all notes and writes one report about what happened.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bus.blackbox.crashes import CrashFile
from cli.supervisor.crashes import AGAIN_S, is_crash
from cli.supervisor.group import describe_exit
from cli.systemd.units import process_of

NOTES: Final = "ended"
LAST: Final = "ends.json"
MOST_UNITS: Final = 256
LONGEST: Final = 1024
_NOTE: Final = re.compile(
    r"(?P<unit>[A-Za-z0-9@._-]{1,256}) (?P<run>[0-9a-f]{32}) (?P<result>[a-z-]{1,32})"
    r"( (?P<code>[a-z]{1,16}) (?P<status>[A-Z0-9+]{1,16}))?"
)
_RESULTS: Final = {
    "watchdog": "no progress within WatchdogSec=: {}",
    "oom-kill": "the machine or its slice was out of memory: {}",
    "timeout": "did not start or stop in time: {}",
    "core-dump": "{}",
    "signal": "{}",
    "exit-code": "{}",
}


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit said of its end.

    Attributes:
        at: when, seconds since 1970.
        process: that it is started as; of a worker and its standby, either may have been either.
        result: `$SERVICE_RESULT`.
        code: of the main process: its exit code, or a signal as a negative number; None where it is not known.
        invocation: by which the journal knows that run of the unit.
    """

    at: float
    unit: str
    process: str
    result: str
    code: int | None
    invocation: str

    @property
    def crashed(self) -> bool:
        """Whether it says that something is wrong."""
        return self.result in _RESULTS and (self.result != "exit-code" or is_crash(self.code))

    @property
    def cause(self) -> str:
        """In words."""
        return _RESULTS.get(self.result, f"{self.result}: {{}}").format(describe_exit(self.code))


def parse(text: str, at: float) -> End | None:
    """A note: unit, invocation, `$SERVICE_RESULT`, and how its main process ended where it had one.

    None where it is none of ours.
    """
    match = _NOTE.fullmatch(text.strip())
    process = process_of(match["unit"]) if match is not None else None
    if match is None or process is None:
        return None
    code = _code(match["code"] or "", match["status"] or "")
    return End(at=at, unit=match["unit"], process=process, result=match["result"], code=code, invocation=match["run"])


def _code(code: str, status: str) -> int | None:
    """`$EXIT_CODE` says how it ended, `$EXIT_STATUS` with what: a number, or a signal's name without SIG."""
    if code == "exited" and status.isdigit():
        return int(status)
    with contextlib.suppress(KeyError):
        return -signal.Signals[f"SIG{status}"].value
    return None


def due(ends: Collection[End], reports: Sequence[CrashFile]) -> End | None:
    """The crash that a report should be about: the first of those whose process has none of the last minute."""
    last = {report.process: report.at for report in sorted(reports)}
    crashes = sorted((end for end in ends if end.crashed), key=lambda end: (end.at, end.unit))
    # On both sides: what came while a report was being begun is in the same minute; a clock that was set back is not.
    return next((end for end in crashes if abs(end.at - last.get(end.process, -2 * AGAIN_S)) >= AGAIN_S), None)


def take(run: Path) -> list[End]:
    """All notes, which are gone then. What is no note goes too: otherwise the path unit would come again for ever."""
    ends = []
    for path in sorted((run / NOTES).glob("*")):
        with contextlib.suppress(OSError), path.open(errors="replace") as file:
            if (end := parse(file.read(LONGEST), path.stat().st_mtime)) is not None:
                ends.append(end)
        with contextlib.suppress(OSError):
            path.unlink()
    return ends


def last(run: Path) -> dict[str, End]:
    """The last bad end of each unit, as of the notes that were taken."""
    try:
        return msgspec.json.decode((run / LAST).read_bytes(), type=dict[str, End])
    except (OSError, msgspec.MsgspecError):
        return {}


def remember(run: Path, ends: Collection[End]) -> None:
    """Keep them for whoever shows the units: systemd forgets how a unit ended when it starts it again."""
    known = {**last(run), **{end.unit: end for end in sorted(ends, key=lambda end: end.at)}}
    kept = sorted(known.values(), key=lambda end: end.at)[-MOST_UNITS:]
    scratch = run / f".{LAST}"
    scratch.write_bytes(msgspec.json.encode({end.unit: end for end in kept}))
    scratch.chmod(0o644)  # the directory says who may come near
    scratch.replace(run / LAST)
