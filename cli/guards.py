"""`headrace guards`: the guards of a configuration, and what those of a running ingress say of a text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.config import GuardConfig
from bus.messages.control import GuardsTried, GuardVerdict, Rejected, TryGuards
from cli.control import Caller, Unreachable
from cli.supervisor.logfiles import printable


def show(guards: Sequence[GuardConfig], *, as_json: bool) -> int:
    """Print what is configured."""
    if as_json:
        print(msgspec.json.encode(guards).decode())
        return 0
    if not guards:
        print("no [[guard]] is configured")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "kind", "stage", "action", "fail", "deadline", "models"):
        table.add_column(title)
    for guard in guards:
        deadline = f"{guard.deadline_ms:g} ms" if guard.deadline_ms else ""
        table.add_row(
            guard.name, guard.kind, guard.stage, guard.action, guard.fail, deadline, ", ".join(guard.models) or "all"
        )
    Console(highlight=False).print(table)
    return 0


def try_text(text: str, stage: Literal["input", "output"], ingress: str, *, as_json: bool) -> int:
    """Ask an ingress; 1 where the text would be blocked, or nobody answers."""
    try:
        with Caller() as caller:
            answer = caller.ask(ingress, TryGuards(0, text, stage))
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
        return 1
    assert isinstance(answer, GuardsTried)
    blocked = any(verdict.outcome == "blocked" for verdict in answer.verdicts)
    if as_json:
        verdicts = [msgspec.structs.asdict(verdict) for verdict in answer.verdicts]
        print(msgspec.json.encode({"verdicts": verdicts, "text": answer.text}).decode())
        return int(blocked)
    if not answer.verdicts:
        print(f"{ingress} has no guard that looks at {'requests' if stage == 'input' else 'answers'}")
        return 0
    _print(answer.verdicts)
    if blocked:
        print("\nblocked")
    elif answer.text != text:
        print(f"\n{printable(answer.text)}")
    return int(blocked)


def _print(verdicts: Sequence[GuardVerdict]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("guard", "kind", "action", "outcome", "what", "µs"):
        table.add_column(title, justify="right" if title == "µs" else "left")
    for one in verdicts:
        style = "bold" if one.outcome not in ("passed", "") else ""
        table.add_row(
            one.name, one.kind, one.action, one.outcome or "not asked", Text(printable(one.what)), f"{one.us:.0f}",
            style=style,
        )  # fmt: skip
    Console(highlight=False).print(table)
