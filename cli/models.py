"""`headrace pull` and `models`: into the store with a progress bar, and what is in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from bus.catalogue import ModelMissing, catalogue, entry_named, locate
from bus.config import Config
from bus.names import models_directory, state_directory
from cli.store import catalogue as store
from cli.store import files
from cli.store.repository import directory_of, pull_repository


def fetch(source: str) -> int:
    """Pull a model: a name of the catalogue, with or without `catalog:`, or `hf:ORG/REPO`. A path is only looked at."""
    if source.startswith("hf:"):
        repository = source.removeprefix("hf:")
        if directory_of(repository).is_dir():
            print(f"{source} is there: {directory_of(repository)}")
            return 0
        return _with_bar(source, 0, lambda show: pull_repository(repository, show))
    if source.startswith("path:") or source.endswith(".gguf"):
        try:
            print(f"{source} is there: {locate(source)}")
        except ModelMissing as error:
            print(f"{error}; a path is not fetched, put the files there", file=sys.stderr)
            return 1
        return 0
    try:
        entry = entry_named(source.removeprefix("catalog:"))
    except ModelMissing as error:
        print(f"{error}; or hf:ORG/REPO", file=sys.stderr)
        return 1
    if entry.unsupported:
        print(f"note: {entry.name} is listed but cannot be served: {entry.unsupported}", file=sys.stderr)
    if store.is_present(entry):
        print(f"{entry.name} is there: {models_directory() / entry.file}")
        return 0
    return _with_bar(entry.name, entry.bytes, lambda show: store.pull(entry, show))


def _with_bar(name: str, total: int, work: Callable[[files.Progress], Path]) -> int:
    columns = (TextColumn("{task.fields[doing]}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total or None, doing=name)

        def show(done: int, total: int, doing: str) -> None:
            bar.update(task, completed=done, total=total, doing=doing)

        try:
            path = work(show)
        except files.PullFailed as error:
            bar.stop()
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            bar.stop()
            print("interrupted; pull again: it goes on where it was", file=sys.stderr)
            return 1
    print(f"{name}: {path}, verified")
    return 0


class Row(msgspec.Struct, frozen=True):
    """A model of the catalogue or the configuration, in `headrace models --json`."""

    name: str
    source: str
    title: str
    licence: str
    bytes: int
    present: bool
    verified: bool
    unsupported: str
    served_as: tuple[str, ...]


def rows(config: Config) -> list[Row]:
    """Everything that could be served, and what of it is there."""
    found = []
    sources = {model.source: model for model in config.model}
    for entry in catalogue().values():
        source = f"catalog:{entry.name}"
        served = tuple(model.name for model in config.model if model.source == source)
        sources.pop(source, None)
        present = (models_directory() / entry.file).exists()
        found.append(
            Row(entry.name, source, entry.title, entry.licence, entry.bytes, present, store.is_present(entry),
                entry.unsupported, served)
        )  # fmt: skip
    for source in sources:
        served = tuple(model.name for model in config.model if model.source == source)
        path = _located(source)
        size = 0 if path is None else sum(f.stat().st_size for f in path.rglob("*")) or path.stat().st_size
        found.append(Row(source, source, "", "", size, path is not None, False, "", served))
    return found


def _located(source: str) -> Path | None:
    try:
        return locate(source)
    except ModelMissing:
        return None


def listing(config: Config, *, as_json: bool) -> int:
    """Print it."""
    found = rows(config)
    if as_json:
        print(msgspec.json.encode({"store": str(models_directory()), "models": found}).decode())
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "what it is", "licence", "MiB", "in the store", "served as"):
        table.add_column(heading, justify="right" if heading == "MiB" else "left", overflow="fold")
    for row in found:
        state = (
            f"no: {row.unsupported}" if row.unsupported and not row.present
            else "verified" if row.verified
            else "yes" if row.present
            else f"headrace pull {row.name}"
        )  # fmt: skip
        table.add_row(row.name, row.title, row.licence, str(row.bytes >> 20), state, ", ".join(row.served_as))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    print(f"store: {models_directory()}")
    if ready := sorted((state_directory() / "weights").glob("*.weights")):
        print(f"ready to run: {sum(file.stat().st_size for file in ready) >> 20} MiB in {ready[0].parent} (a cache)")
    return 0


def missing_models(config: Config) -> list[str]:
    """Why configured models cannot be served, one line each."""
    problems = []
    for index, model in enumerate(config.model):
        for key, source in model.sources.items():
            try:
                locate(source)
            except ModelMissing as error:
                problems.append(f"model[{index}].{key}: {error}")
    return problems
