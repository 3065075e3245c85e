"""The file of a report: `.tar.gz`, mode 0600, written whole or not at all; and the crash reports that are kept.

about.json, config.toml, host.json, status.json, supervisor.json, sizes.json, metrics.txt,
logs/NAME.log, blackbox/NAME.EPOCH.jsonl, blackbox/NAME.EPOCH.fatal
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bus.names import state_directory
from cli.blackbox.entries import Entry, Told
from cli.report.contents import Part

SUFFIX: Final = ".tar.gz"
ABOUT: Final = "about.json"
RESERVE_BYTES: Final = 256 << 20  # of the disk: a report is worth less than what else needs room
MOST_BYTES: Final = 256 << 20  # of a part that is read
_FOLDER: Final = "headrace-report"


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
    path = state_directory() / "crashes"
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
            for part in parts:
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


def read(path: Path) -> dict[str, bytes]:
    """All parts by name. Nothing is written to disk, so what the file says of paths and modes does not matter.

    Raises:
        BadBundle: see there.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if not member.isfile() or member.size > MOST_BYTES or not member.name.startswith(f"{_FOLDER}/"):
                    continue
                if (file := tar.extractfile(member)) is not None:
                    found[member.name.removeprefix(f"{_FOLDER}/")] = file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BadBundle(f"{path}: cannot be read as a report: {error}") from None
    if ABOUT not in found:
        raise BadBundle(f"{path}: no report of headrace")
    return found


def recordings_of(path: Path) -> list[Told]:
    """The recordings in a report.

    Raises:
        BadBundle: see there.
    """
    parts, found = read(path), []
    for name, data in parts.items():
        if name.endswith(".jsonl"):
            try:
                head, *entries = data.splitlines()
                told: dict[str, Any] = msgspec.json.decode(head)
                decoded = [msgspec.json.decode(entry, type=Entry) for entry in entries]
                fatal = parts.get(name.removesuffix(".jsonl") + ".fatal", b"").decode("utf-8", "replace")
                found.append(msgspec.convert({**told, "entries": [], "fatal": fatal}, Told))
            except (ValueError, msgspec.MsgspecError) as error:
                raise BadBundle(f"{path}: {name}: {error}") from None
            found[-1].entries = decoded
    return sorted(found, key=lambda each: (each.process, each.epoch))


def kept() -> list[Kept]:
    """Crash reports, oldest first. Their names begin with the time."""
    found = []
    for path in sorted(crash_directory().glob(f"[!.]*{SUFFIX}")):
        with contextlib.suppress(OSError):
            found.append(Kept(path, path.stat().st_size, _about(path)))
    return found


def _about(path: Path) -> About:
    try:
        with tarfile.open(path, "r:gz") as tar:
            first = tar.next()  # what it is about comes first
            if first is not None and (file := tar.extractfile(first)) is not None:
                return msgspec.json.decode(file.read(1 << 16), type=About)
    except (OSError, tarfile.TarError, EOFError, msgspec.MsgspecError):
        pass
    return About(at=path.name.partition("Z")[0], build="", host="", cause="cannot be read")


def let_go(keep: int) -> None:
    """Remove all but the newest crash reports, and what a writer that was killed has left."""
    directory = crash_directory()
    for path in sorted(directory.glob(f"[!.]*{SUFFIX}"))[: -keep or None]:
        path.unlink(missing_ok=True)
    for path in directory.glob(f".*{SUFFIX}.*"):
        if (pid := re.search(r"\.(\d+)$", path.name)) and not Path(f"/proc/{pid[1]}").exists():
            path.unlink(missing_ok=True)


def crash_path(process: str, now: float) -> Path:
    """Where the report of a crash goes."""
    return crash_directory() / f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime(now))}-{process}{SUFFIX}"
