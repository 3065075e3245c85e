"""The command: choose recordings, print them, follow them."""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bus.blackbox.reading import Recording
from bus.names import InvalidName, parse_process, run_directory
from cli.blackbox.deaths import Death, deaths
from cli.blackbox.entries import Entry, Told, load, merged, told
from cli.blackbox.following import BadRequestId, request_numbers
from cli.blackbox.telling import line
from cli.control import running_names
from cli.supervisor.logfiles import printable

POLL_S: Final = 0.25
LAST_SECOND_NS: Final = 1_000_000_000
_UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Asked(NamedTuple):
    """What the command was asked for; see `headrace blackbox --help`."""

    name: str = ""
    incarnation: int = 0
    since: str = ""
    request: str = ""
    lines: int = 50
    everything: bool = False
    follow: bool = False
    last_death: bool = False
    bundle: Path | None = None
    as_json: bool = False


class Mistake(ValueError):
    """What was asked for cannot be; the message says why."""


def show(asked: Asked) -> int:
    """Print it. Exit code 1 where there is nothing, 2 where the question makes no sense."""
    try:
        if asked.name:
            parse_process(asked.name)
        requests = request_numbers(asked.request) if asked.request else frozenset[int]()
        ago_ns = _ago_ns(asked.since)
        if asked.bundle is not None and (asked.follow or asked.last_death):
            raise Mistake(
                "a report does not go on, and names the process that died: leave out --follow and --last-death"
            )
    except (InvalidName, BadRequestId, Mistake) as error:
        print(error, file=sys.stderr)
        return 2
    if asked.last_death:
        return _show_death(asked)
    try:
        chosen = _chosen(asked, requests, ago_ns)
    except Mistake as error:
        print(error, file=sys.stderr)
        return 1
    entries = _worth(merged(chosen) if len(chosen) != 1 else chosen[0].entries, asked)
    limited = not (asked.since or asked.request) and asked.lines
    _print(entries[-asked.lines :] if limited else entries, asked)
    if not asked.as_json:
        for each in chosen:
            if each.fatal and asked.name:
                print(f"\n{printable(each.process)} ended by a fatal signal:\n{_clean(each.fatal)}")
    if asked.follow:
        _follow(asked, requests, max((entry.at_ns for entry in entries), default=0))
    elif not entries:
        print("nothing that is recorded fits; --all shows heartbeats too", file=sys.stderr)
    return 0 if entries else 1


def _chosen(asked: Asked, requests: frozenset[int], ago_ns: int) -> list[Told]:
    if asked.bundle is not None:
        from cli.report.bundle import BadBundle, recordings_of

        try:
            kept = [each for each in recordings_of(asked.bundle) if asked.name in ("", each.process)]
        except BadBundle as error:
            raise Mistake(str(error)) from None
        end_ns = max((entry.at_ns for each in kept for entry in each.entries), default=0)
        for each in kept:
            each.entries = [
                entry
                for entry in each.entries
                if (not ago_ns or entry.at_ns >= end_ns - ago_ns) and (not requests or requests & set(entry.requests))
            ]
        return kept
    recordings = load(run_directory(), asked.name)
    if asked.name:
        recordings = [_incarnation(recordings, asked)]
    elif not recordings:
        raise Mistake(f"nothing is recorded in {run_directory()} ([blackbox] size)")
    since_ns = time.monotonic_ns() - ago_ns if ago_ns else 0
    return [told(each, since_ns=since_ns, requests=requests) for each in recordings]


def _incarnation(recordings: list[Recording], asked: Asked) -> Recording:
    """By how many incarnations ago, or by epoch."""
    epochs = {recording.head.epoch: recording for recording in recordings}
    if asked.incarnation in epochs:
        return epochs[asked.incarnation]
    if 0 <= asked.incarnation < len(recordings):
        return recordings[-1 - asked.incarnation]
    if not recordings:
        raise Mistake(f"nothing of {asked.name} is recorded in {run_directory()}; headrace status lists the names")
    raise Mistake(
        f"{len(recordings)} incarnations of {asked.name} are kept: 0 is the newest, {len(recordings) - 1} the oldest; "
        f"or by epoch: {', '.join(map(str, epochs))}"
    )


def _worth(entries: list[Entry], asked: Asked) -> list[Entry]:
    """Heartbeats are what is between the lines."""
    return entries if asked.everything else [entry for entry in entries if entry.message != "Heartbeat"]


def _print(entries: list[Entry], asked: Asked) -> None:
    for entry in entries:
        # With \\u for all but ASCII: a report may be from anywhere, and JSON escapes less than terminals obey.
        print(json.dumps(msgspec.to_builtins(entry)) if asked.as_json else line(entry, process=not asked.name))
    sys.stdout.flush()


def _follow(asked: Asked, requests: frozenset[int], after_ns: int) -> None:
    try:
        while True:
            time.sleep(POLL_S)
            recordings = load(run_directory(), asked.name)
            new = [told(each, since_ns=after_ns + 1, requests=requests) for each in recordings if each.same_boot]
            entries = merged(new)
            _print(_worth(entries, asked), asked)
            after_ns = max((entry.at_ns for entry in entries), default=after_ns)
    except KeyboardInterrupt:
        return


def _show_death(asked: Asked) -> int:
    recordings = load(run_directory())
    ends = [death for death in deaths(recordings, running_names().items()) if asked.name in ("", _name(death))]
    unasked = [death for death in ends if not death.asked]
    if not unasked:
        print(
            "nothing that is recorded here died; " + f"{len(ends)} processes ended as they were told to",
            file=sys.stderr,
        )
        return 1
    death = unasked[-1]
    last = told(death.recording, since_ns=death.at_ns - LAST_SECOND_NS)
    if asked.as_json:
        _print(last.entries, asked)
        return 0
    head = death.recording.head
    when = datetime.datetime.fromtimestamp(death.recording.wall_ns(death.at_ns) / 1e9).astimezone()
    print(
        f"{head.name}, epoch {head.epoch}, pid {head.pid}, headrace {head.build}\n"
        f"ended {when:%Y-%m-%d %H:%M:%S} after {(death.at_ns - head.monotonic_ns) / 1e9:.1f} s: "
        f"{printable(death.how)}\nits last second:"
    )
    _print(_worth(last.entries, asked), Asked(name=head.name))
    if death.recording.fatal:
        print(f"\n{_clean(death.recording.fatal)}")
    return 0


def _name(death: Death) -> str:
    return death.recording.head.name


def _clean(text: str) -> str:
    return "\n".join(printable(each) for each in text.splitlines())


def _ago_ns(text: str) -> int:
    """Nanoseconds since `30s` ago, or since `14:05`; 0 where nothing was asked for.

    Raises:
        Mistake: neither.
    """
    if not text:
        return 0
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text):
        return int(float(match[1]) * _UNITS[match[2]] * 1e9)
    try:
        clock = datetime.time.fromisoformat(text)
    except ValueError:
        raise Mistake(f"--since {text!r}: write for example 30s, 5m, 2h or 14:05:30") from None
    now = datetime.datetime.now()
    return int((now - datetime.datetime.combine(now.date(), clock)).total_seconds() % 86_400 * 1e9)
