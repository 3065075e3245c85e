"""What each token of a model stands for, as a file in the run directory.

Whoever has the tokeniser writes it; whoever masks tokens reads it, and needs no tokeniser. A file is named by the
digest of what is in it: it is never another one's, never stale, and writing it again changes nothing. Who gives a
digest to others holds its file, and holding one takes away those that nobody holds any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

DIGEST_BYTES: Final = 16
UNUSED_S: Final = 3600.0  # a file that nobody holds is kept so long: its process may be about to come back
_SUFFIX: Final = ".vocabulary"


class Vocabulary(msgspec.Struct, array_like=True, frozen=True):
    """The tokens of one model.

    Attributes:
        tokens: the bytes of each, by id.
        control: ids that leave no text, packed u32.
        ends: ids that end a sequence, packed u32; where a grammar is followed, at least one.
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


class Held(NamedTuple):
    """A vocabulary whose file stays for as long as its descriptor is open, however the process ends."""

    digest: bytes
    descriptor: int


def hold(run: Path, vocabulary: Vocabulary) -> Held:
    """Have it in the run directory for as long as this process wants, and take away what nobody has held for an hour.

    Raises:
        OSError: there is no room.
    """
    while True:
        digest = write(run, vocabulary)
        try:
            descriptor = os.open(_path(run, digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken away in between
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    os.utime(descriptor)
    sweep(run)
    return Held(digest, descriptor)


def sweep(run: Path, unused_s: float = UNUSED_S) -> None:
    """Take away the files that nobody holds, and has not for so long; and what was left of writing some."""
    until = time.time() - unused_s
    for path in (*run.glob(f"*{_SUFFIX}"), *run.glob("*.new")):
        with contextlib.suppress(OSError):  # somebody else takes it away, or holds it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_mtime <= until:
                    path.unlink()
            finally:
                os.close(descriptor)


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
