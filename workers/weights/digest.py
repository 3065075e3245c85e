"""The digest that identifies a model's weights: equal on every host that has the same bytes.

Hashing half a gigabyte takes a second or so, so hashes are kept: beside the file where `headrace pull` has just
verified it (`<file>.sha256`), else in the state directory. Both are one line, `hex size mtime_ns`, and are believed
only while size and time of the file are what they say.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from bus.names import state_directory
from workers.weights.safetensors_dir import weight_files
from workers.weights.source import WeightsError

_READ_BYTES: Final = 1 << 20


class _Known(NamedTuple):
    digest: bytes
    size: int
    mtime_ns: int


def weights_digest(path: Path) -> bytes:
    """sha256 over the sha256 of each file (in order of name) of a GGUF file or a safetensors directory.

    A directory's config.json counts too: other rope or norm numbers make other KV of the same weights.

    Raises:
        WeightsError: a file is missing or cannot be read.
    """
    files = (path / "config.json", *weight_files(path)) if path.is_dir() else (path,)
    return hashlib.sha256(b"".join(_file_digest(file) for file in files)).digest()


def _file_digest(file: Path) -> bytes:
    try:
        resolved = file.resolve(strict=True)
        status = resolved.stat()
        kept = state_directory() / "digests" / f"{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:32]}.sha256"
        for place in (file.with_name(file.name + ".sha256"), kept):
            known = _read(place)
            if known is not None and known[1:] == (status.st_size, status.st_mtime_ns):
                return known.digest
        digest = _hash(resolved)
    except OSError as error:
        raise WeightsError(file, f"cannot be read: {error.strerror}") from None
    _keep(kept, _Known(digest, status.st_size, status.st_mtime_ns))
    return digest


def _hash(file: Path) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.digest()


def _read(place: Path) -> _Known | None:
    """None where there is nothing that can be understood: then the file is hashed."""
    try:
        digest, size, mtime_ns = place.read_text(encoding="ascii").split()
        known = _Known(bytes.fromhex(digest), int(size), int(mtime_ns))
    except (OSError, ValueError):
        return None
    return known if len(known.digest) == hashlib.sha256().digest_size else None


def _keep(kept: Path, known: _Known) -> None:
    """Several ranks may do this at once, so the file appears whole. A state directory that is full costs only time."""
    part = kept.with_suffix(f".{os.getpid()}.part")
    try:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        part.write_text(f"{known.digest.hex()} {known.size} {known.mtime_ns}\n", encoding="ascii")
        part.replace(kept)
    except OSError:
        part.unlink(missing_ok=True)
