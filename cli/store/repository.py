"""A whole repository of the hub, as `hf:ORG/REPO` names it: configuration, tokenizer and safetensors, each verified."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

from bus.names import models_directory
from cli.store import hub
from cli.store.files import CHUNK, Progress, PullFailed, check_space, sha256, workshop, write_sidecar
from cli.store.hub import HubEntry

_REPOSITORY: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WANTED: Final = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|"
    r"model\.safetensors\.index|chat_template)\.json|merges\.txt|chat_template\.jinja|LICENSE(\..*)?|"
    r"(modules|sentence_bert_config|config_sentence_transformers|1_Pooling/config)\.json|[\w.-]*\.safetensors"
)


def directory_of(repository: str) -> Path:
    """Where the store keeps it; what `bus.catalogue.locate` looks for."""
    return models_directory() / "hf" / repository.replace("/", "--")


def pull_repository(repository: str, progress: Progress) -> Path:
    """Fetch a repository; returns its directory. Does nothing where it is there.

    Raises:
        PullFailed: it cannot be reached, holds no safetensors, a hash is wrong, or the disk is full.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise PullFailed(f"{repository!r} is no repository of the hub; write hf:ORG/REPO")
    path = directory_of(repository)
    if path.is_dir():
        return path
    with workshop(path) as parts:
        entries = [entry for entry in hub.list_files(repository) if _WANTED.fullmatch(entry.path)]
        if not any(entry.path.endswith(".safetensors") for entry in entries):
            raise PullFailed(f"{repository} holds no safetensors at its top level")
        total = sum(entry.size for entry in entries)
        whole = parts / "whole"
        whole.mkdir(exist_ok=True)
        check_space(parts, total - sum(file.stat().st_size for file in whole.iterdir()), repository)
        done = 0
        for entry in entries:
            _fetch(repository, entry, parts, whole, done, total, progress)
            done += entry.size
        os.replace(whole, path)
        shutil.rmtree(parts)
    return path


def _fetch(
    repository: str, entry: HubEntry, parts: Path, whole: Path, before: int, total: int, progress: Progress
) -> None:
    target = whole / entry.path
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    partial = parts / f"{entry.path.replace('/', '--')}.partial"
    url = hub.file_url(repository, entry.path)
    hub.download(url, partial, entry.size, lambda done: progress(before + done, total, entry.path))
    if entry.lfs is not None:
        good = sha256(partial, total, lambda done, total, doing: progress(before + done, total, doing)) == entry.lfs.oid
    else:
        good = _git_hash(partial) == entry.oid
    if not good:
        partial.unlink()
        raise PullFailed(f"{repository}: {entry.path} does not have the hash that the hub lists; it is thrown away")
    os.replace(partial, target)
    if entry.lfs is not None:
        write_sidecar(target, entry.lfs.oid)


def _git_hash(path: Path) -> str:
    """Of a blob, as git names it (gitformat-objects): not for security, that is what TLS is for."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
