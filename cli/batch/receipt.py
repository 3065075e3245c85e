"""What is kept beside a file while its batch is under way, so that the same command goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

import msgspec


class Receipt(msgspec.Struct):
    """One batch of one file.

    Attributes:
        base: the server that has it.
        digest: of the file and endpoint: of other lines it is another batch.
        number: that upload and batch are made with; the same number makes neither twice.
        file, batch: ids, once there are any.
    """

    base: str
    digest: str
    number: str
    file: str = ""
    batch: str = ""


def place(path: Path) -> Path:
    """Where the receipt of a file is."""
    return path.with_name(path.name + ".batch")


def find(path: Path, base: str, endpoint: str) -> Receipt:
    """The receipt of a file; a new one where it has none, or its lines were changed since.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256(endpoint.encode())
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    new = Receipt(base, digest.hexdigest(), secrets.token_hex(16))
    try:
        found = msgspec.json.decode(place(path).read_bytes(), type=Receipt)
    except (OSError, msgspec.DecodeError):
        return new
    return found if (found.base, found.digest) == (new.base, new.digest) else new


def save(path: Path, receipt: Receipt) -> None:
    """As it is now; all of it or as it was.

    Raises:
        OSError: it cannot be written.
    """
    there = place(path)
    part = there.with_name(there.name + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(receipt)))
    os.replace(part, there)


def drop(path: Path) -> None:
    """The batch is over, and its results are here."""
    with contextlib.suppress(OSError):
        place(path).unlink()
