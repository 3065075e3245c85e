"""The bytes of files, in the state directory: one file each, written once.

An upload grows in `uploads` and is renamed when it is whole and on the disk; so what has an id is complete, whatever
died. It survives the death of this process as far as it has come: whoever sends it says where each part belongs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "files"
UPLOADS: Final = "uploads"
_WRITING: Final = ".writing"


class Gap(Exception):
    """A part does not begin where the upload ends."""


class Vault:
    """The folder.

    Args:
        state: the state directory.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER
        self._uploads = self.folder / UPLOADS
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(self, upload: str, offset: int, data: bytes) -> int:
        """A part of an upload; its size then. What it has already is not written again.

        Raises:
            Gap: something between is missing.
            OSError: it cannot be written.
        """
        fd = os.open(self._uploads / upload, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if offset > size:
                raise Gap(f"the upload has {size} bytes, not {offset}")
            rest = memoryview(data)[size - offset :]
            while rest:
                size += (written := os.pwrite(fd, rest, size))
                rest = rest[written:]
            return size
        finally:
            os.close(fd)

    def uploaded(self, upload: str) -> int | None:
        """Bytes of an upload; None where there is none."""
        try:
            return (self._uploads / upload).stat().st_size
        except FileNotFoundError:
            return None

    def sync(self, upload: str) -> None:
        """An upload is on the disk. Takes as long as that takes.

        Raises:
            OSError: it is not.
        """
        with open(self._uploads / upload, "rb") as file:
            os.fsync(file.fileno())

    def keep(self, upload: str, id: str) -> None:
        """An upload is a file."""
        os.replace(self._uploads / upload, self.folder / id)
        self._on_disk()

    def holds(self, id: str) -> bool:
        """Whether there is such a file, in a row or not."""
        return (self.folder / id).exists()

    def discard(self, upload: str) -> None:
        """Of an upload nothing is wanted."""
        with contextlib.suppress(FileNotFoundError):
            (self._uploads / upload).unlink()

    def write(self, id: str, lines: Iterable[bytes]) -> int:
        """A file out of lines, in one go; bytes of it. One that is there is written anew.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        path = self.folder / (id + _WRITING)
        size = 0
        try:
            with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                for line in lines:
                    file.write(line)
                    size += len(line)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        os.replace(path, self.folder / id)
        self._on_disk()
        return size

    def read(self, id: str, offset: int, most: int) -> bytes:
        """A part of a file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with open(self.folder / id, "rb") as file:
            return os.pread(file.fileno(), most, offset)

    def chunks(self, id: str, size: int) -> Iterator[bytes]:
        """All of a file.

        Raises:
            OSError: see `read`.
        """
        with open(self.folder / id, "rb") as file:
            while chunk := file.read(size):
                yield chunk

    def size(self, id: str) -> int:
        """Bytes of a file.

        Raises:
            OSError: it is not there.
        """
        return (self.folder / id).stat().st_size

    def drop(self, ids: Iterable[str]) -> None:
        """They are no more."""
        for id in ids:
            (self.folder / id).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Of the file system."""
        return shutil.disk_usage(self.folder).free

    def sweep(self, known: Collection[str], before_s: float) -> int:
        """Remove files that nobody knows, and uploads, that nobody has written to since; how many."""
        count = 0
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in known and path.stat().st_mtime < before_s:
                path.unlink(missing_ok=True)
                count += 1
        return count + self.sweep_uploads(before_s)

    def sweep_uploads(self, before_s: float) -> int:
        """Remove uploads that nobody has gone on with since; how many."""
        count = 0
        for path in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before_s:
                    path.unlink()
                    count += 1
        return count

    def _on_disk(self) -> None:
        """The names in the folder."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
