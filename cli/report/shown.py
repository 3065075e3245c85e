"""A report as text for somebody who was not there. It may be from anywhere and say anything: what is not as it should
be is left out, and nothing that a terminal would obey gets through. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from cli.blackbox.entries import Told
from cli.blackbox.telling import line
from cli.report.bundle import ABOUT, About, BadBundle, recordings_in
from cli.supervisor.logfiles import printable

LAST_LINES: Final = 15
LAST_MOMENTS: Final = 20
_PACKAGES: Final = ("torch", "numpy", "pyzmq", "msgspec")

Parts = Mapping[str, bytes]


def about(parts: Parts) -> About:
    """What it is about.

    Raises:
        BadBundle: it does not say so.
    """
    try:
        return msgspec.json.decode(parts[ABOUT], type=About)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadBundle(f"{ABOUT}: {printable(str(error))}") from None


def text_of(part: bytes) -> Iterator[str]:
    """The lines of a part, harmless."""
    yield from map(printable, part.decode("utf-8", "replace").splitlines())


def summary(parts: Parts) -> Iterator[str]:
    """Lines.

    Raises:
        BadBundle: it does not say what it is about, or its recordings cannot be read.
    """
    told = about(parts)
    recordings = recordings_in(parts)
    yield printable(f"report of {told.host or 'an unnamed host'}, {told.at}, headrace {told.build}")
    if told.process:
        yield printable(f"{told.process} crashed: {told.cause}")
    yield from map(printable, _host(_tree(parts, "host.json")))
    for title, lines in (
        ("processes", _processes(_tree(parts, "status.json"))),
        ("units", _units(_tree(parts, "units.json"))),
        ("ended badly", _ends(_tree(parts, "ends.json"))),
        ("its last log lines" if told.process else "", _last_lines(parts, told.process)),
        ("its last messages" if told.process else "", _last_moments(recordings, told.process)),
        ("parts", _listing(parts)),
    ):
        if title and (rows := list(lines)):
            yield ""
            yield f"{title}:"
            yield from ("  " + printable(row) for row in rows)


def _tree(parts: Parts, name: str) -> Any:
    try:
        return msgspec.json.decode(parts.get(name, b"null"))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _at(tree: Any, *path: str) -> str:
    """The value there as text; empty where it is not, or is no plain value."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return str(tree) if isinstance(tree, str | int | float) else ""


def _rows(tree: Any) -> Iterator[Any]:
    yield from tree if isinstance(tree, list) else ()


def _host(tree: Any) -> Iterator[str]:
    system = [_at(tree, "os", "name"), "kernel " + _at(tree, "os", "kernel"), _at(tree, "os", "libc")]
    if any(_at(tree, "os", key) for key in ("name", "kernel")):
        yield "on " + ", ".join(filter(None, system))
    memory = _at(tree, "memory", "total")
    gib = f"{int(memory) / (1 << 30):.0f} GiB" if memory.isdigit() else ""
    cores = _at(tree, "cpu", "cores")
    machine = [_at(tree, "cpu", "model"), f"{cores} cores" if cores else "", gib]
    if any(machine):
        yield "with " + ", ".join(filter(None, machine))
    versions = [f"{name} {version}" for name in _PACKAGES if (version := _at(tree, "packages", name))]
    if python := _at(tree, "python", "version").partition(" ")[0]:
        yield ", ".join([f"Python {python}", *versions])


def _processes(tree: Any) -> Iterator[str]:
    for row in _rows(tree.get("processes") if isinstance(tree, dict) else None):
        yield f"{_at(row, 'name'):<26} {_at(row, 'state'):<9} pid {_at(row, 'pid'):<8} {_at(row, 'detail')}".rstrip()


def _units(tree: Any) -> Iterator[str]:
    for row in _rows(tree):
        state, restarts = f"{_at(row, 'ActiveState')} ({_at(row, 'SubState')})", _at(row, "NRestarts")
        again = f", restarted {restarts} times" if restarts not in ("", "0") else ""
        result = _at(row, "Result")
        yield f"{_at(row, 'Id'):<44} {state}{again}{f', {result}' if result not in ('', 'success') else ''}"


def _ends(tree: Any) -> Iterator[str]:
    for row in _rows(tree):
        yield f"{_at(row, 'unit'):<44} {_at(row, 'cause')}"


def _last_lines(parts: Parts, process: str) -> Iterator[str]:
    """Of its log file, or of that run of its unit that the report is about."""
    unit = next((_at(row, "unit") for row in _rows(_tree(parts, "ends.json")) if _at(row, "process") == process), "")
    run = f"logs/{unit.removesuffix('.service')}."
    names = [name for name in parts if name == f"logs/{process}.log" or (unit and name.startswith(run))]
    for name in names[:1]:
        yield from list(text_of(parts[name]))[-LAST_LINES:]


def _last_moments(recordings: list[Told], process: str) -> Iterator[str]:
    """Of the newest incarnation that is recorded to its end; the one after it may have begun already."""
    its = [told for told in recordings if told.process == process and told.entries]
    if not its:
        return
    dead = next((told for told in reversed(its) if told.fatal), its[-2] if len(its) > 1 else its[-1])
    for entry in [entry for entry in dead.entries if entry.message != "Heartbeat"][-LAST_MOMENTS:]:
        yield from line(entry, process=False).splitlines()
    yield from dead.fatal.splitlines()[:LAST_LINES]


def _listing(parts: Parts) -> Iterator[str]:
    for name, data in sorted(parts.items()):
        why = f"  {data[:200].decode('utf-8', 'replace').strip()}" if name.endswith(".missing") else ""
        yield f"{len(data) / 1024:>9.1f} KiB  {name}{why}"
