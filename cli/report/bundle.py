"""The file of a report: `.tar.gz`, mode 0600, written whole or not at all; and the crash reports that are kept.

about.json, config.toml, host.json, status.json, supervisor.json or units.json, ends.json, sizes.json, metrics.txt,
logs/NAME.log, blackbox/NAME.EPOCH.jsonl, blackbox/NAME.EPOCH.fatal
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bus.blackbox import crashes
from bus.blackbox.crashes import SUFFIX, CrashFile
from cli.blackbox.entries import Entry, Told
from cli.report.contents import Part
from cli.supervisor.logfiles import printable

ABOUT: Final = "about.json"
RESERVE_BYTES: Final = 256 << 20  # of the disk: a report is worth less than what else needs room
MOST_WRITTEN: Final = 96 << 20  # of all parts of a report, before they are compressed
MOST_READ: Final = 128 << 20
MOST_PARTS: Final = 4096
_FOLDER: Final = "headrace-report"
_PART: Final = re.compile(r"[A-Za-z0-9@._-]{1,200}(/[A-Za-z0-9@._-]{1,200})?")


class BadBundle(ValueError):
    """Not a report, or a damaged one."""


class About(msgspec.Struct, kw_only=True):
    """Why and when a report was written. `process` and `cause` are of a crash report."""

    at: str
    build: str
    host: str
    process: str = ""
    cause: str = ""


class Kept(NamedTuple):
    """A crash report that is kept."""

    path: Path
    bytes: int
    about: About


def crash_directory() -> Path:
    """`$HEADRACE_STATE/crashes`."""
    path = crashes.directory()
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write(path: Path, about: About, parts: Iterable[Part]) -> int:
    """Write a report; its size.

    Raises:
        OSError: there is no room, or it cannot be written. Nothing is left behind then.
    """
    if shutil.disk_usage(path.parent).free < RESERVE_BYTES:
        raise OSError(errno.ENOSPC, f"less than {RESERVE_BYTES >> 20} MiB are free", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
            _add(tar, Part(ABOUT, msgspec.json.format(msgspec.json.encode(about)) + b"\n"))
            left = MOST_WRITTEN
            for part in parts:
                if len(part.data) > left:
                    part = Part(f"{part.name}.missing", f"the report has no room for {len(part.data)} bytes\n".encode())
                left -= len(part.data)
                _add(tar, part)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return path.stat().st_size


def _add(tar: tarfile.TarFile, part: Part) -> None:
    info = tarfile.TarInfo(f"{_FOLDER}/{part.name}")
    info.size, info.mode = len(part.data), 0o600
    tar.addfile(info, io.BytesIO(part.data))


class _Bounded(io.RawIOBase):
    """What is in a compressed file, up to a limit: a few kilobytes may say that they are terabytes."""

    def __init__(self, file: gzip.GzipFile, most: int) -> None:
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As a file's.

        Raises:
            BadBundle: it is more than was allowed for.
        """
        data = self._file.read(min(len(buffer), self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise BadBundle(f"it is more than {MOST_READ >> 20} MiB when it is unpacked")
        buffer[: len(data)] = data
        return len(data)


def read(path: Path) -> dict[str, bytes]:
    """All parts by name, of a report that may be from anywhere. Nothing is written to disk.

    Raises:
        BadBundle: not a report, or not one that `write` could have made: names that lead out of it, links and other
            things that are no files, more than fits.
    """
    found: dict[str, bytes] = {}
    try:
        with (
            gzip.open(path) as file,
            io.BufferedReader(_Bounded(file, MOST_READ)) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as tar,
        ):
            for member in tar:
                name = _part_name(member)
                if len(found) >= MOST_PARTS or name in found:
                    raise BadBundle(f"{name} is there twice" if name in found else f"more than {MOST_PARTS} parts")
                if (part := tar.extractfile(member)) is not None:
                    found[name] = part.read()
    except BadBundle as bad:
        raise BadBundle(f"{path}: refused: {bad}") from None
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise BadBundle(f"{path}: cannot be read as a report: {printable(str(error))}") from None
    if ABOUT not in found:
        raise BadBundle(f"{path}: no report of headrace")
    return found


def _part_name(member: tarfile.TarInfo) -> str:
    """Of a member.

    Raises:
        BadBundle: no report has such a one.
    """
    folder, _, name = member.name.partition("/")
    if not member.isreg() or member.issparse():
        raise BadBundle(f"{printable(member.name)} is no plain file")
    if folder != _FOLDER or not _PART.fullmatch(name) or ".." in name.split("/"):
        raise BadBundle(f"{printable(member.name)} is no part of a report")
    return name


def recordings_of(path: Path) -> list[Told]:
    """The recordings in a report.

    Raises:
        BadBundle: see there.
    """
    try:
        return recordings_in(read(path))
    except BadBundle as bad:
        raise BadBundle(str(bad) if str(bad).startswith(str(path)) else f"{path}: {bad}") from None


def recordings_in(parts: Mapping[str, bytes]) -> list[Told]:
    """The recordings among the parts of a report, by process, oldest first.

    Raises:
        BadBundle: see there.
    """
    found = []
    for name, data in parts.items():
        if name.endswith(".jsonl"):
            try:
                head, *entries = data.splitlines()
                told: dict[str, Any] = msgspec.json.decode(head)
                decoded = [msgspec.json.decode(entry, type=Entry) for entry in entries]
                fatal = parts.get(name.removesuffix(".jsonl") + ".fatal", b"").decode("utf-8", "replace")
                found.append(msgspec.convert({**told, "entries": [], "fatal": fatal}, Told))
            except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
                raise BadBundle(f"{name}: {printable(str(error))}") from None
            found[-1].entries = decoded
    return sorted(found, key=lambda each: (each.process, each.epoch))


def kept() -> list[Kept]:
    """Crash reports, oldest first."""
    reports = []
    for file in crashes.found():
        with contextlib.suppress(OSError):
            reports.append(Kept(file.path, file.path.stat().st_size, _about(file.path)))
    return reports


def _about(path: Path) -> About:
    try:
        with tarfile.open(path, "r:gz") as tar:
            first = tar.next()  # what it is about comes first
            if first is not None and (file := tar.extractfile(first)) is not None:
                return msgspec.json.decode(file.read(1 << 16), type=About)
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error, msgspec.MsgspecError):
        pass
    return About(at=path.name.partition("Z")[0], build="", host="", cause="cannot be read")


def spare(files: Sequence[CrashFile], keep: int) -> list[CrashFile]:
    """Those to let go so that `keep` stay. Pure.

    The oldest of whoever has most: a process that dies once a minute pushes out its own reports, and nobody else's.
    """
    left, spared = sorted(files), list[CrashFile]()
    while len(left) > keep:
        most = Counter(file.process for file in left)
        spared.append(min(left, key=lambda file: (-most[file.process], file)))
        left.remove(spared[-1])
    return spared


def let_go(keep: int) -> None:
    """Remove all but `keep` crash reports, and what a writer that was killed has left."""
    for file in spare(crashes.found(), keep):
        file.path.unlink(missing_ok=True)
    for path in crash_directory().glob(f".*{SUFFIX}.*"):
        if (pid := re.search(r"\.(\d+)$", path.name)) and not Path(f"/proc/{pid[1]}").exists():
            path.unlink(missing_ok=True)


def crash_path(process: str, now: float) -> Path:
    """Where the report of a crash goes; its directory is there then."""
    crash_directory()
    return crashes.path_of(process, now)
