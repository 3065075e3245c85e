"""`headrace logs`: what the processes said, from their log files or from the journal."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

import msgspec

from bus.logread.query import BadQuery, Query, parse_pattern, parse_request, parse_span
from bus.logread.records import LEVELS, LogRecord
from bus.logread.source import Kind, open_source
from cli.supervisor.logfiles import printable

LOOK_S: Final = 0.25
QUIET_S: Final = 10.0  # for a journal that says nothing and does not end
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m", "debug": "\x1b[2m"}


def make_query(name: str, request: str, level: str, grep: str, since: str) -> Query:
    """What was asked for.

    Raises:
        BadQuery: it cannot be looked for.
    """
    if level not in LEVELS:
        raise BadQuery(f"{level!r} is no level: {', '.join(LEVELS)}")
    since_s = time.time() - parse_span(since) if since else 0.0
    return Query(name, level, parse_request(request), parse_pattern(grep), since_s)


def show(query: Query, *, lines: int, follow: bool, as_json: bool, kind: Kind | None) -> int:
    """Print the last `lines` that fit, and go on with what comes."""
    source = open_source(kind, query.since, follow=follow, whole=True)
    try:
        records = [record for record in _backlog(source, follow=follow) if query.wants(record)]
        for record in records[-lines:] if lines else records:
            _print(record, sys.stdout, as_json=as_json)
        if source.problem and not records:
            print(source.problem, file=sys.stderr)
            return 1
        while follow:
            sys.stdout.flush()
            time.sleep(LOOK_S)
            for record in source.poll():
                if query.wants(record):
                    _print(record, sys.stdout, as_json=as_json)
            if source.problem:
                print(source.problem, file=sys.stderr)
                return 1
    except KeyboardInterrupt:
        return 0
    finally:
        source.close()
    if source.suppressed:
        print(f"the journal left out {source.suppressed} lines that came too fast", file=sys.stderr)
    return 0


def _backlog(source: object, *, follow: bool) -> list[LogRecord]:
    """What is there already: files are read at once, a journal until it ends or, followed, until it is quiet."""
    poll = source.poll  # type: ignore[attr-defined]
    records: list[LogRecord] = poll()
    deadline = time.monotonic() + QUIET_S
    while not getattr(source, "ended", True) and time.monotonic() < deadline:
        more = poll()
        if follow and records and not more:
            break
        records += more
        time.sleep(0.05)
    return records


def _print(record: LogRecord, out: TextIO, *, as_json: bool) -> None:
    if as_json:
        out.write(msgspec.json.encode(record._asdict()).decode() + "\n")
        return
    clock = time.strftime("%m-%d %H:%M:%S", time.localtime(record.at)) + f".{int(record.at % 1 * 1000):03d}"
    line = printable(f"{clock} {record.level[0].upper()} {record.unit:<22} {record.text}")
    colour = _COLOURS.get(record.level, "") if out.isatty() else ""
    out.write(f"{colour}{line}\x1b[0m\n" if colour else f"{line}\n")
    for more in record.more:
        out.write(f"    {printable(more)}\n")
