"""kv@host: open the arena, serve it."""

from __future__ import annotations

from pathlib import Path

from bus.config import Config
from bus.memfd import MemoryTooSmall
from bus.messages.control import Ok, Rejected, ToProcess
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life, Service, run_process
from kv.arena import ArenaInUse, open_arena
from kv.disk.place import DiskInUse, DiskUnusable, open_place
from kv.layout import ArenaTooSmall
from kv.service import PageService


class _Nothing:
    """Stands in for a service that could not be built; `life.fail` has said why."""

    def start(self) -> None: ...
    def describe(self) -> Description:
        return Description()

    def drain(self) -> None: ...
    def undrain(self) -> None: ...
    def drained(self) -> bool:
        return True

    def hand_over(self) -> None: ...
    def stop(self) -> None: ...
    def control(self, message: ToProcess) -> Ok | Rejected | None:
        del message
        return None


def _make(life: Life) -> Service:
    try:
        disk = open_place(life.config.kv)
    except DiskUnusable as error:
        life.fail(f"[kv] disk: {error}", EXIT_CONFIG)
        return _Nothing()
    except DiskInUse as error:
        life.fail(f"[kv] disk: {error}", EXIT_MISSING)
        return _Nothing()
    try:
        arena = open_arena(life.config.kv)
    except (MemoryTooSmall, ArenaTooSmall) as error:
        life.fail(f"[kv] arena: {error}", EXIT_CONFIG)
        return _Nothing()
    except ArenaInUse as error:
        life.fail(f"[kv] arena: {error}", EXIT_MISSING)
        return _Nothing()
    return PageService(life, arena, disk)


def main(name: str, config: Config, config_path: Path | None) -> int:
    """Run the page server; returns its exit code."""
    return run_process(name, config, config_path, _make, loop="poll")
