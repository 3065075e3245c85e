"""An entry in one line, for people. Pure. Nothing that a terminal would obey gets through."""

from __future__ import annotations

import datetime
from typing import Any, Final

from cli.blackbox.entries import Entry
from cli.supervisor.logfiles import printable

_ARROWS: Final = {"received": "←", "sent": "→", "refused": "✖"}
_SHOWN: Final = 4  # numbers of an array
_LONGEST: Final = 60  # characters of a text within a message


def line(entry: Entry, *, process: bool) -> str:
    """`process`: say whose it is."""
    when = _clock(entry.at)
    who = printable(f"{entry.process:<22} ") if process else ""
    if entry.kind in _ARROWS:
        what = (
            f"{_ARROWS[entry.kind]} {entry.peer:<22} {entry.message or entry.kind:<12} {entry.size:>7}  {says(entry)}"
        )
        return f"{when} {who}{printable(what)}".rstrip()
    lines = [printable(text) for text in entry.text.splitlines()] or [""]
    if entry.kind == "log":  # begins with a time and a name of its own
        lines[0] = lines[0].replace(f" {entry.process} ", " ", 1).partition(" ")[2]
    return "\n".join(
        [
            f"{when} {who}· {printable(entry.kind):<5} {lines[0]}",
            *(" " * (len(when) + len(who) + 9) + more for more in lines[1:]),
        ]
    )


def _clock(at: str) -> str:
    """Here, to the millisecond; a report from elsewhere may say anything."""
    try:
        return datetime.datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return "--:--:--.---"


def says(entry: Entry) -> str:
    """What a message says, shortly."""
    if entry.kind == "refused":
        return entry.text
    if not entry.fields:
        return "longer than what is kept" if entry.cut else ""
    try:
        return _SPECIAL.get(entry.message, _generic)(entry.fields)
    except (KeyError, TypeError, ValueError):  # a message of another release, or of no release
        return _generic(entry.fields)


def _plan(f: dict[str, Any]) -> str:
    parts = [f"step {f['step']}: {_count(f['slots'], 'row')}, {_count_of(sum(f['counts']), 'token')}"]
    if f["opens"]:
        opened = (f"slot {each['slot']} for {each['request']}" for each in f["opens"][:_SHOWN])
        parts.append("opens " + ", ".join(opened))
    if f["closes"]:
        parts.append("closes slot " + ", ".join(map(str, f["closes"][:_SHOWN])))
    if f["pages"]:
        parts.append(_count(f["pages"], "new page"))
    return ", ".join(parts)


def _result(f: dict[str, Any]) -> str:
    tokens = sum(f.get("drawn") or ()) or len(f["slots"])
    drafts = f", {sum(f['drafted'])} drafts" if f.get("drafted") else ""
    return (
        f"step {f['step']}: {_count_of(tokens, 'token')}{drafts}, waited {f['waited_ns'] / 1e6:.1f} ms, "
        f"ran {f['ran_ns'] / 1e6:.1f} ms"
    )


def _deltas(f: dict[str, Any]) -> str:
    ends = "".join(f", {end['request']} ends: {end['reason']}" for end in f["finished"][:_SHOWN])
    return f"step {f['step']}: {_count_of(sum(f['counts']), 'token')} of {_count(f['requests'], 'request')}{ends}"


def _submit(f: dict[str, Any]) -> str:
    emitted = _length(f["emitted"])
    again = f", {emitted} of them told before" if emitted else ""
    return f"request {f['request']}: prompt of {_length(f['prompt'])} tokens, at most {f['max_tokens']} more{again}"


_SPECIAL: Final = {"StepPlan": _plan, "StepResult": _result, "Deltas": _deltas, "Submit": _submit}


def _length(packed: Any) -> int:
    """Of an array of u32, taken out or not."""
    return int(packed["hidden_bytes"]) // 4 if isinstance(packed, dict) else len(packed)


def _count(values: Any, noun: str) -> str:
    return _count_of(len(values), noun)


def _count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _generic(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in fields.items() if value not in ("", [], None))


def _short(value: Any) -> str:
    match value:
        case {"hidden_bytes": size}:
            return f"<{size} bytes>"
        case dict():
            return f"({_generic(value)})"
        case list() if len(value) > _SHOWN:
            return f"[{', '.join(map(_short, value[:_SHOWN]))}, … {len(value)} in all]"
        case list():
            return f"[{', '.join(map(_short, value))}]"
        case float():
            return f"{value:g}"
        case str() if len(value) > _LONGEST:
            return value[:_LONGEST] + "…"
    return str(value)
