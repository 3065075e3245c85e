"""What each token of a model stands for, as a file in the run directory.

Whoever has the tokeniser writes it; whoever masks tokens reads it, and needs no tokeniser. A file is named by the
digest of what is in it: it is never another one's, never stale, and writing it again changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec

DIGEST_BYTES: Final = 16
_SUFFIX: Final = ".vocabulary"


class Vocabulary(msgspec.Struct, array_like=True, frozen=True):
    """The tokens of one model.

    Attributes:
        tokens: the bytes of each, by id.
        control: ids that leave no text, packed u32.
        ends: ids that end a sequence, packed u32; at least one.
    """

    tokens: tuple[bytes, ...]
    control: bytes
    ends: bytes


def write(run: Path, vocabulary: Vocabulary) -> bytes:
    """Have it in the run directory; its digest, 16 bytes.

    Raises:
        OSError: there is no room.
    """
    data = msgspec.msgpack.encode(vocabulary)
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES, person=b"headrace tokens").digest()
    path = _path(run, digest)
    if not path.exists():
        own = path.with_suffix(f".{os.getpid()}.new")
        own.write_bytes(data)
        own.replace(path)
    return digest


def read(run: Path, digest: bytes) -> Vocabulary:
    """The vocabulary of that digest.

    Raises:
        FileNotFoundError: nobody has written it.
        ValueError: the file does not hold it.
    """
    data = _path(run, digest).read_bytes()
    if hashlib.blake2b(data, digest_size=DIGEST_BYTES, person=b"headrace tokens").digest() != digest:
        raise ValueError(f"{_path(run, digest)} is damaged")
    return msgspec.msgpack.decode(data, type=Vocabulary)


def _path(run: Path, digest: bytes) -> Path:
    return run / f"{digest.hex()}{_SUFFIX}"
