"""What this user's screen remembers from one time to the next: typed commands, saved views. Files of the user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

HISTORY: Final = 200
MOST_VIEWS: Final = 50


class SavedView(msgspec.Struct, frozen=True):
    """How a screen was looked at."""

    view: str
    filter: str = ""
    sort: str = ""
    reverse: bool = False
    faults_only: bool = False
    wide: bool = False


class Keepsakes:
    """History and views.

    Args:
        directory: where they are kept; None keeps them while the screen is open.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self.history: list[str] = _read(directory, "history.json", list[str], [])[-HISTORY:]
        self.views: dict[str, SavedView] = _read(directory, "views.json", dict[str, SavedView], {})

    def typed(self, line: str) -> None:
        """A command was given."""
        if line.strip() and (not self.history or self.history[-1] != line):
            self.history = [*self.history, line][-HISTORY:]
            self._write("history.json", self.history)

    def save(self, name: str, view: SavedView) -> str:
        """Remember a view. Returns why not; empty where it is."""
        if name not in self.views and len(self.views) >= MOST_VIEWS:
            return f"there are {MOST_VIEWS} saved views already: forget one first"
        self.views[name] = view
        return self._write("views.json", self.views)

    def forget(self, name: str) -> str:
        """The opposite."""
        self.views.pop(name, None)
        return self._write("views.json", self.views)

    def _write(self, name: str, what: object) -> str:
        if self._directory is None:
            return ""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._directory / f"{name}.new"
            fresh.write_bytes(msgspec.json.encode(what))
            os.replace(fresh, self._directory / name)
        except OSError as error:
            return f"kept only while this screen is open: {error.strerror}"
        return ""


def _read(directory: Path | None, name: str, kind: type[T], nothing: T) -> T:
    if directory is None:
        return nothing
    try:
        return msgspec.json.decode((directory / name).read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return nothing


def own_directory() -> Path:
    """`$XDG_STATE_HOME/headrace-top`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "headrace-top"
