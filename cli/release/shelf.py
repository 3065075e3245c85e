"""The directory that releases stand in. Each change is one rename, so a death leaves either what was or what is to be.

A release is whole when it has a `release.json`, which is written last and removed first. A directory without one is
half-made; whoever holds the lock may remove it. The lock is inherited by what is run to make a release: as long as an
orphan of a killed command still writes, nobody else makes, switches or removes anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cli.release.decisions import Refused, Release

ROOT: Final = Path("/opt/headrace")
_WHOLE: Final = "release.json"
_FAILED: Final = "failed"


class Shelf:
    """Releases below one directory."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._releases = root / "releases"
        self._current = root / "current"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Nobody else changes the shelf meanwhile. Gives the lock's descriptor, to hand to children.

        Raises:
            Refused: somebody does already, or this user may not.
        """
        try:
            self._releases.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise Refused(f"{self.root} belongs to root: sudo") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).decode() or "unknown"
                raise Refused(
                    f"{self.root} is being changed by process {pid}, or by what it left running: again when that ends"
                ) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            yield fd
        finally:
            os.close(fd)

    def place(self, release_id: str) -> Path:
        """The directory of a release, which may not exist."""
        return self._releases / release_id

    def releases(self) -> list[Release]:
        """All that are whole, oldest first."""
        found = [release for name in self._names() if (release := self._read(name)) is not None]
        return sorted(found, key=lambda release: release.sequence)

    def half_made(self) -> list[str]:
        """Directories that a death left behind, unless one is being made: to be asked under the lock."""
        return [name for name in self._names() if self._read(name) is None]

    def current(self) -> str | None:
        """The id of the release that is current; None where none is."""
        try:
            name = Path(os.readlink(self._current)).name
        except OSError:
            return None
        return name if self._read(name) is not None else None

    def complete(self, release: Release) -> None:
        """Say that a release is whole. Its files are on the disk first."""
        os.sync()
        place = self.place(release.id)
        record = {key: value for key, value in release._asdict().items() if key != "failed"}
        _write(place / _WHOLE, json.dumps(record, indent=1) + "\n")

    def switch(self, release_id: str) -> None:
        """Make a release the current one."""
        fresh = self.root / "current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("releases") / release_id)
        fresh.replace(self._current)
        _sync_directory(self.root)

    def blame(self, release_id: str, reason: str) -> None:
        """Remember why a release did not become ready; with an empty reason, forget it."""
        mark = self.place(release_id) / _FAILED
        if reason:
            _write(mark, reason + "\n")
        else:
            mark.unlink(missing_ok=True)

    def remove(self, release_id: str) -> None:
        """Remove a release, or a half-made one."""
        place = self.place(release_id)
        (place / _WHOLE).unlink(missing_ok=True)
        _sync_directory(place)
        shutil.rmtree(place)

    def in_use(self) -> dict[str, list[int]]:
        """Releases that processes run from, with their pids: by their program, or by what they have mapped."""
        found: dict[str, list[int]] = {}
        inside = re.compile(re.escape(os.fsencode(self._releases.resolve())) + rb"/([^/\0\n]+)/")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    match = inside.match((entry / "cmdline").read_bytes()) or inside.search(
                        (entry / "maps").read_bytes()
                    )
                except OSError:
                    continue  # it has ended, or is somebody else's
                if match:
                    found.setdefault(os.fsdecode(match[1]), []).append(int(entry.name))
        return found

    def _names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self._releases.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []

    def _read(self, name: str) -> Release | None:
        place = self.place(name)
        try:
            record = json.loads((place / _WHOLE).read_text())
            failed = (place / _FAILED).read_text().strip() if (place / _FAILED).exists() else ""
            return Release(
                name, str(record["version"]), str(record["torch"]), str(record["python"]),
                int(record["sequence"]), float(record["made"]), failed,
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError) as error:
            raise Refused(f"{place / _WHOLE} cannot be read: {error!r}; remove {place}, or mend the file") from None


def _write(path: Path, text: str) -> None:
    """All of it or nothing, whatever happens."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
