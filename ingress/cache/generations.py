"""The file that the ingresses of a host share, by generations: a damaged one is left for a new one, never mended.

    RUN/cache/current            the name of the one in use
    RUN/cache/answers-3f2a….db   (with its -wal and -shm)

A name is never used twice: whoever still has an old generation open removes that one's log when it closes it, and must
not find the log of another under its name. `current` is replaced by a rename, under a lock, so that of several who find
a file damaged one makes the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_POINTER: Final = "current"


class Generations:
    """The files in one directory, which is made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def current(self) -> Path | None:
        """The one in use; None before the first."""
        try:
            name = (self._directory / _POINTER).read_text(encoding="utf-8").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return self._directory / name if name.startswith("answers-") and "/" not in name else None

    def next(self, damaged: Path | None) -> Path:
        """The one to use instead of `damaged` (None: of nothing): made by whoever asks first."""
        with self._locked():
            found = self.current()
            if found is not None and found != damaged:
                return found
            fresh = self._directory / f"answers-{secrets.token_hex(8)}.db"
            pointer = self._directory / f"{_POINTER}.{os.getpid()}"
            pointer.write_text(fresh.name, encoding="utf-8")
            pointer.rename(self._directory / _POINTER)
            self._sweep(fresh)
            return fresh

    def _sweep(self, keep: Path) -> None:
        """Remove the files of all others; who has them open still can read them."""
        for path in self._directory.glob("answers-*.db*"):
            if not path.name.startswith(keep.name):
                with contextlib.suppress(OSError):
                    path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
