"""`headrace audit-log`: what operators did, from the files that all processes write; for those who may look and not
read files, through the control door of a process."""

from __future__ import annotations

import os
import sys
import time

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.actionlog import ActionRecord, audit_directory, read_actions
from bus.logread.query import BadQuery, parse_span
from bus.messages.control import Actions, GetActions
from bus.names import METRICS
from cli.control import Caller, Unreachable, running_names
from cli.supervisor.logfiles import printable


def show(since: str, *, as_json: bool) -> int:
    """Print the records, oldest first."""
    try:
        since_s = time.time() - parse_span(since) if since else 0.0
        records = _records(since_s)
    except BadQuery as problem:
        print(problem, file=sys.stderr)
        return 2
    except Unreachable as problem:
        print(problem, file=sys.stderr)
        return 1
    if as_json:
        for record in records:
            print(msgspec.json.encode(record).decode())
        return 0
    if not records:
        print("nobody did anything" + (f" in the last {since}" if since else ""))
        return 0
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240  # a pipe has no width to fold to
    console.print(_table(records))
    return 0


def _records(since_s: float) -> list[ActionRecord]:
    """From the files, or by asking where they may not be read.

    Raises:
        Unreachable: neither way.
    """
    with Caller() as caller:
        if not os.access(caller.run, os.R_OK | os.X_OK):
            raise Unreachable(f"{caller.run}: Permission denied; who may look is in a group that may enter it")
        running = running_names(caller.run)
        if 0 not in running.values():  # else it is another user's stack, whose files are not where ours would be
            try:
                return read_actions(audit_directory(), since_s)
            except OSError as error:
                if not running:
                    raise Unreachable(f"{error.filename}: {error.strerror}; ask as the stack's own user") from None
        return _asked(caller, min(running, key=lambda name: (name != METRICS, name)), since_s)


def _asked(caller: Caller, name: str, since_s: float) -> list[ActionRecord]:
    """All that one process reads for us, page by page.

    Raises:
        Unreachable: it does not answer, or may not read either.
    """
    found: list[ActionRecord] = []
    before, more = 0.0, True
    while more:
        answer = caller.ask(name, GetActions(0, since_s, before))
        if not isinstance(answer, Actions):
            raise Unreachable(f"{name} does not tell: it is of another release")
        if answer.problem:
            raise Unreachable(f"{name}: {answer.problem}")
        page = [msgspec.json.decode(line, type=ActionRecord) for line in answer.records]
        found = page + found
        more = answer.more and bool(page)
        before = page[0].at if page else 0.0
    return found


def _table(records: list[ActionRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("time", "who", "did", "to", "result", "reason", "change"):
        table.add_column(title, overflow="fold")
    for record in records:
        table.add_row(*(Text(printable(cell)) for cell in cells(record)))
    return table


def cells(record: ActionRecord) -> tuple[str, ...]:
    """A record as a row."""
    result = record.result if record.result == "done" else f"{record.result}: {record.detail}"
    change = " → ".join(filter(None, (record.before, record.after))) or (
        record.detail if record.result == "done" else ""
    )
    if record.missed:
        result += f" (and {record.missed} before it)"
    return (
        time.strftime("%m-%d %H:%M:%S", time.localtime(record.at)), f"{record.user} ({record.program} {record.pid})",
        record.verb, record.object, result, record.reason, change,
    )  # fmt: skip
