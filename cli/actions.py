"""`headrace audit-log`: what operators did, from the files that all processes write."""

from __future__ import annotations

import sys
import time

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.actionlog import ActionRecord, audit_directory, read_actions
from bus.logread.query import BadQuery, parse_span
from cli.supervisor.logfiles import printable


def show(since: str, *, as_json: bool) -> int:
    """Print the records, oldest first."""
    try:
        records = read_actions(audit_directory(), time.time() - parse_span(since) if since else 0.0)
    except BadQuery as problem:
        print(problem, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; ask as the stack's own user", file=sys.stderr)
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
