"""`headrace release list`, `install`, `prune`, and `headrace rollback`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cli.release.decisions import Refused, Release, may_switch, superfluous, way_back
from cli.release.making import PYTHON, gather, make
from cli.release.rolling import Commands, Units, installed_units
from cli.release.shelf import ROOT, Shelf
from cli.release.wheel import open_wheel

CONFIG: Final = Path("/etc/headrace/headrace.toml")
KEEP: Final = 3


class Asked(NamedTuple):
    """What `release install` was asked for. Empty and None mean: decide."""

    wheel: Path
    wheels: Path | None = None
    torch: str = ""
    python: Path = PYTHON
    config: Path | None = None
    root: Path = ROOT
    restart: bool = True


def install(asked: Asked, environment: Mapping[str, str]) -> int:
    """Make a release unless it is there, switch to it, restart what runs; back to the old one where that fails."""
    os.umask(0o022)  # services run as another user, whatever this shell's mask is
    shelf = Shelf(asked.root)
    try:
        of = gather(
            open_wheel(asked.wheel), python=asked.python, wheels=asked.wheels, torch=asked.torch, given=asked.wheel,
            environment=environment,
        )  # fmt: skip
        with shelf.locked() as lock:
            _sweep(shelf)
            release = next((there for there in shelf.releases() if there.id == of.id), None)
            if release is None:
                release = make(shelf, lock, of, _tell)
            else:
                _tell(f"{release.id} is here already")
            return _go_over(shelf, release, asked.config, restart=asked.restart)
    except Refused as refusal:
        return _refuse(refusal)
    except KeyboardInterrupt:
        return _refuse("interrupted; nothing was switched")
    except OSError as error:
        return _refuse(f"{error.filename or asked.root}: {error.strerror}; nothing was switched")


def rollback(release_id: str, config: Path | None, root: Path, *, restart: bool) -> int:
    """Switch back, to the release before or to one by its id, and restart what runs."""
    shelf = Shelf(root)
    try:
        with shelf.locked():
            return _go_over(shelf, way_back(shelf.releases(), shelf.current(), release_id), config, restart=restart)
    except Refused as refusal:
        return _refuse(refusal)


def prune(keep: int, root: Path, *, dry: bool) -> int:
    """Remove half-made releases, and the oldest that nobody needs."""
    shelf = Shelf(root)
    try:
        with shelf.locked():
            if not dry:
                _sweep(shelf)
            for release in superfluous(shelf.releases(), shelf.current(), shelf.in_use(), keep):
                _tell(f"{release.id}: {'would be ' if dry else ''}removed")
                if not dry:
                    shelf.remove(release.id)
    except Refused as refusal:
        return _refuse(refusal)
    return 0


def listing(root: Path, *, as_json: bool) -> int:
    """Print what is on the shelf."""
    shelf = Shelf(root)
    try:
        releases, current, in_use = shelf.releases(), shelf.current(), shelf.in_use()
        half_made = shelf.half_made()
    except Refused as refusal:
        return _refuse(refusal)
    if as_json:
        rows = [
            {**release._asdict(), "current": release.id == current, "pids": in_use.get(release.id, [])}
            for release in releases
        ]
        print(json.dumps({"root": str(root), "releases": rows, "half_made": half_made}))
        return 0
    if not releases:
        print(f"no release in {root}; headrace release install makes one of a wheel")
    else:
        print(f"  {'release':<24} {'made (UTC)':<17} {'python':<7} {'torch':<5} {'processes':>9}")
    for release in releases:
        made = time.strftime("%Y-%m-%d %H:%M", time.gmtime(release.made))
        mark = "*" if release.id == current else " "
        failed = f"  failed: {release.failed.splitlines()[0]}" if release.failed else ""
        processes = len(in_use.get(release.id, []))
        print(f"{mark} {release.id:<24} {made:<17} {release.python:<7} {release.torch:<5} {processes:>9}{failed}")
    for name in half_made:
        print(f"  {name:<24} half-made; being made, or the next install or prune removes it")
    return 0


def _go_over(shelf: Shelf, to: Release, config: Path | None, *, restart: bool) -> int:
    """Switch and restart; under the lock.

    Raises:
        Refused: the release can do less with the configuration than the current one.
    """
    units = installed_units(shelf.root)
    config = config or (Path(units.config) if units is not None else CONFIG if CONFIG.exists() else None)
    before, new = shelf.current(), Commands(shelf.place(to.id), config)
    if fault := new.fault():
        old = Commands(shelf.place(before), config) if before is not None and before != to.id else None
        if not may_switch(fault, old.fault() if old is not None else None):
            raise Refused(f"{to.id} cannot use the configuration, which {before} can:\n{fault}\nnothing was switched")
        _tell(f"{to.id} finds fault with the configuration, to be put right before it can serve:\n{fault}")
    shelf.switch(to.id)
    _tell(f"{to.id} is current" + (f"; before: {before}" if before not in (None, to.id) else ""))
    if units is not None and (fault := new.make_units(units)):
        _tell(f"the units stay as they were:\n{fault}")
    if not restart or not new.runs() or set(shelf.in_use()) <= {to.id}:
        return 0
    if failure := new.restart_all():
        shelf.blame(to.id, failure)
        return _go_back(shelf, to, before, config, units)
    shelf.blame(to.id, "")
    left = [pid for release_id, pids in shelf.in_use().items() if release_id != to.id for pid in pids]
    _tell(
        f"everything runs as {to.id}" + (f", but not the processes {left}, which are not of this stack" if left else "")
    )
    return 0


def _go_back(shelf: Shelf, failed: Release, before: str | None, config: Path | None, units: Units | None) -> int:
    """A release did not become ready: what was before it comes back; after a death in the middle, its way back."""
    if before is None or before == failed.id:
        try:
            before = way_back(shelf.releases(), failed.id).id
        except Refused as refusal:
            return _refuse(f"{failed.id} does not become ready; {refusal}")
    shelf.switch(before)
    _tell(f"{failed.id} does not become ready; back to {before}")
    old = Commands(shelf.place(before), config)
    failure = (old.make_units(units) if units is not None else "") or old.restart_all()
    if failure:
        return _refuse(f"{before} is current again and does not become ready either:\n{failure}\nheadrace status")
    return _refuse(f"everything runs as {before}, as before; headrace release list says why")


def _sweep(shelf: Shelf) -> None:
    for name in shelf.half_made():
        _tell(f"{name} is half-made: removed")
        shelf.remove(name)


def _tell(text: str) -> None:
    print(text, flush=True)


def _refuse(reason: object) -> int:
    print(reason, file=sys.stderr, flush=True)
    return 1
