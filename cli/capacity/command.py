"""Getting the shapes of the models, and printing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bus.config import Config
from bus.memfd import room_for_memory
from bus.shapes import ModelShape
from cli.capacity.counting import MIB, Capacity, Memory, count
from cli.supervisor.logfiles import printable

PATIENCE_S: Final = 300.0  # hashing a large model for the first time


class NoShapes(RuntimeError):
    """The models' files could not be looked at; the message says why."""


def show(config: Config, path: Path | None, *, as_json: bool) -> int:
    """Print it. Exit code 78 where a model cannot be served, or the arena is too small."""
    try:
        found = count(config, shapes(path))
    except (NoShapes, ValueError) as error:
        print(error, file=sys.stderr)
        return 78
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    return 78 if any(model.problem for model in found.models) else 0


def shapes(path: Path | None) -> list[ModelShape]:
    """Asked of a process of the workers' code, which reads the files: commands know nothing of models.

    Raises:
        NoShapes: see there.
    """
    command = [sys.executable, "-m", "workers.capacity", *([str(path)] if path is not None else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        return msgspec.json.decode(done.stdout, type=list[ModelShape])
    except subprocess.TimeoutExpired:
        raise NoShapes(f"the models' files were not read within {PATIENCE_S:.0f} s") from None
    except msgspec.DecodeError:
        raise NoShapes(f"the models' files cannot be looked at: {done.stderr.strip()[-2000:]}") from None


def _print(found: Capacity) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    console.print(
        f"arena {found.arena_bytes / MIB:,.0f} MiB: {found.slabs} slabs of pages, "
        f"{found.table_bytes / MIB:,.1f} MiB of tables and rest\n"
    )
    for model in found.models:
        if model.problem:
            console.print(f"✖ {model.name}: {printable(model.problem)}", markup=False)
            continue
        if not model.page_tokens:
            console.print(
                f"{model.name}, computed in {model.computed_in}: an encoder, keeps no pages; texts of at most "
                f"{model.context_tokens:,} tokens\n",
                markup=False,
            )
            continue
        console.print(
            f"{model.name}, computed in {model.computed_in}: a page is {model.page_tokens} tokens, "
            f"{model.page_bytes / 1024:,.0f} KiB; alone in the arena {model.pages:,} pages, {model.tokens:,} tokens",
            markup=False,
        )
        table = _table("a request of", "takes", "so many at once", "more with")
        for each in model.streams:
            more = "a larger arena" if each.bound == "arena" else f"more slots ({model.slots} now)"
            table.add_row(f"{each.tokens:,} tokens", f"{each.pages:,} pages", f"{each.streams:,}", more)
        console.print(table, "")
    memory = _table("memory", "MiB", "")
    _rows(memory, found.memory)
    memory.add_row("in all", f"{found.memory_bytes / MIB:,.0f}", "")
    console.print(memory)
    console.print(f"this host has {room_for_memory().bytes / MIB:,.0f} MiB left, by {room_for_memory().limit}\n")
    for heading, rows in (("grows with use, at most", found.limits), ("on disk, at most", found.disk)):
        table = _table(heading, "MiB", "")
        _rows(table, rows)
        console.print(table, "")


def _rows(table: Table, rows: tuple[Memory, ...]) -> None:
    for row in rows:
        table.add_row(Text(row.what), f"{row.bytes / MIB:,.0f}", Text(row.why))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others[:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(others[-1])
    return table
