"""`headrace limit`: which limits of a model hold, and others from the next step on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_args, get_type_hints

import msgspec
from rich.console import Console
from rich.table import Table

from bus.messages.control import GetLimits, LimitsInForce, LimitValues, Ok, Rejected, SetLimits
from bus.names import scheduler_name
from cli.control import Caller, Unreachable

NAMES = LimitValues.__struct_fields__


class BadLimit(ValueError):
    """Not `NAME=NUMBER`; the message says what is."""


def parse_limits(words: Sequence[str]) -> LimitValues:
    """`slots=16 inter_token_target_ms=100`.

    Raises:
        BadLimit: a name or a number is none.
    """
    found: dict[str, float] = {}
    hints = get_type_hints(LimitValues)
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in NAMES:
            raise BadLimit(f"{word!r}: write NAME=NUMBER, with NAME one of {', '.join(NAMES)}")
        kind = float if float in get_args(hints[name]) else int
        try:
            found[name] = kind(text.replace("_", ""))
        except ValueError:
            raise BadLimit(f"{word!r}: {text!r} is not {'a number' if kind is float else 'a whole number'}") from None
    return LimitValues(**found)  # type: ignore[arg-type]


def limit(model: str, words: Sequence[str], *, reset: bool, reason: str, as_json: bool) -> int:
    """Change what is named; then, or where nothing is, show what holds."""
    try:
        wanted = parse_limits(words)
    except BadLimit as bad:
        print(bad, file=sys.stderr)
        return 2
    name = scheduler_name(model)
    try:
        with Caller() as caller:
            if words or reset:
                answer = caller.ask(name, SetLimits(0, wanted, reset, reason))
                if isinstance(answer, Rejected):
                    print(answer.reason, file=sys.stderr)
                    return 1
                if isinstance(answer, Ok) and not as_json:
                    print(answer.detail)
            held = caller.ask(name, GetLimits(0))
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    if isinstance(held, Rejected):
        print(held.reason, file=sys.stderr)
        return 1
    assert isinstance(held, LimitsInForce)
    if as_json:
        print(
            msgspec.json.encode(
                {part: msgspec.structs.asdict(getattr(held, part)) for part in ("now", "configured", "most")}
            ).decode()
        )
        return 0
    _show(held)
    return 0


def _show(held: LimitsInForce) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("limit", "now", "configured", "most"):
        table.add_column(title, justify="left" if title == "limit" else "right")
    for name in NAMES:
        now, configured, most = (getattr(part, name) for part in (held.now, held.configured, held.most))
        table.add_row(
            name,
            f"{now:.15g}",
            f"{configured:.15g}",
            f"{most:.15g}" if most is not None else "",
            style="bold" if now != configured else "",
        )
    Console(highlight=False).print(table)
