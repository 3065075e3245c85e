"""`headrace report`, `headrace report list` and `headrace report show`."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bus.blackbox import crashes
from bus.blackbox.crashes import SUFFIX
from bus.build import BUILD
from bus.config import Config
from bus.names import InvalidName, parse_process, run_directory
from cli.report.bundle import About, BadBundle, crash_path, kept, let_go, read, write
from cli.report.contents import parts
from cli.report.secrets import Secrets
from cli.report.shown import summary, text_of
from cli.supervisor.logfiles import printable
from cli.systemd.ends import End, due, remember, take
from cli.systemd.telling import process_of_run

NICE: Final = 19  # a crash report is made while the stack recovers, and gives way to that


def report(config: Config | None, output: Path | None) -> int:
    """Write one where the operator wants it."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    path = output or Path(f"headrace-report-{platform.node() or 'host'}-{stamp}{SUFFIX}")
    return _write(path, config, "", "")


def crash_report(config: Config, process: str, cause: str, ends: Sequence[End] = ()) -> int:
    """Write one about a process that died, and let others go for it.

    Args:
        ends: what systemd said of it, and of others that ended about then.
    """
    try:
        parse_process(process)
    except InvalidName as error:
        print(error, file=sys.stderr)
        return 2
    if not config.blackbox.crashes:
        print("no crash reports are kept ([blackbox] crashes)", file=sys.stderr)
        return 0
    let_go(config.blackbox.crashes - 1)
    return _write(crash_path(process, time.time()), config, process, cause, ends)


def units_ended(config: Config) -> int:
    """Under systemd: take the notes that units left as they ended, and write the report that is due, if any."""
    ends = [_named(end) for end in take(run_directory())]
    remember(run_directory(), ends)
    if (end := due(ends, crashes.found())) is None:
        print(f"{len(ends)} units ended; nothing new that a report is worth", file=sys.stderr)
        return 0
    # The journal reads the priority from the beginning of a line.
    print(f"<4>{end.process} crashed: {end.cause}; a report of it is being written", flush=True)
    return crash_report(config, end.process, end.cause, ends)


def _named(end: End) -> End:
    """With the name that it had: of a worker and its standby, the journal knows which was which."""
    its = process_of_run(end.invocation) if end.crashed else ""
    return msgspec.structs.replace(end, process=its or end.process)


def _write(path: Path, config: Config | None, process: str, cause: str, ends: Sequence[End] = ()) -> int:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    secrets = Secrets.of(config)
    about = About(at=now, build=BUILD, host=platform.node(), process=process, cause=secrets.clean(cause))
    try:
        size = write(path, about, parts(config, secrets, ends))
    except OSError as error:
        print(f"no report: {error.filename or path}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{path}  {size / 1024:.0f} KiB; without keys, prompts and answers, but look before you give it away")
    return 0


def listing(*, as_json: bool) -> int:
    """The crash reports that are kept, newest last."""
    found = kept()
    if as_json:
        told = [{"path": str(each.path), "bytes": each.bytes, **msgspec.to_builtins(each.about)} for each in found]
        print(msgspec.json.encode(told).decode())
        return 0
    for each in found:
        about = each.about
        print(
            printable(
                f"{about.at:<26} {about.process:<24} {about.cause:<24} {each.bytes / 1024:>7.0f} KiB  {each.path}"
            )
        )
    if not found:
        print("no crash reports are kept", file=sys.stderr)
    return 0


def show(path: Path, part: str) -> int:
    """A report from anywhere: what it is about, or one part. Exit code 1 where it is none, or has no such part."""
    try:
        parts = read(path)
        lines = list(text_of(parts[part]) if part else summary(parts))
    except BadBundle as bad:
        print(printable(str(bad)), file=sys.stderr)
        return 1
    except KeyError:
        print(printable(f"{path} has no part {part!r}; without --part they are listed"), file=sys.stderr)
        return 1
    print("\n".join(lines))
    if not part:
        print(
            f"\nheadrace report show {path} --part NAME prints one of them,\n"
            f"headrace blackbox --bundle {path} --since 30s what its processes said to each other"
        )
    return 0
