"""What requests used, kept until the ledger has it: one file for each ingress, in the run directory's memory.

    RUN/usage/ingress@0.95492873

As with journals, a file belongs to one incarnation, which holds a lock on it for its whole life: whoever can lock it
knows that its writer is dead, reads what it had not delivered, and removes it when that stands in a file of its own.
A record that is told twice because of that counts once, since its id is the request's.

A file is records, each its length and CRC-32 (u32, little-endian) and its body (MessagePack): what was used, in full,
or what is known later of the computing. Where nothing can be written, records are kept in this process only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Final

import msgspec

from bus.messages.usage import UsageRecord

log = logging.getLogger(__name__)

MAX_RECORDS: Final = 50_000  # of one process; about 8 MiB
TIDY_BYTES: Final = 1 << 20  # a file beyond this that is mostly delivered is written anew
ABANDONED_S: Final = 60.0  # a file that was not finished by then has no writer any more
_PREFIX: Final = struct.Struct("<II")
_encoder: Final = msgspec.msgpack.Encoder()


class Computed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The computing of a request whose record stands before it."""

    request: int
    compute_ns: int
    prefill_ns: int


_record: Final = msgspec.msgpack.Decoder(UsageRecord)
_computed: Final = msgspec.msgpack.Decoder(Computed)


class Spool:
    """Records that are not in the ledger yet, oldest first.

    Args:
        run: the run directory.
        name, epoch: this incarnation's.

    Attributes:
        records: by request.
        dropped: records that were too many.
    """

    def __init__(self, run: Path, name: str, epoch: int) -> None:
        self.records: dict[int, UsageRecord] = {}
        self.dropped = 0
        self._directory = run / "usage"
        self._path = self._directory / f"{name}.{epoch}"
        self._file = -1
        self._bytes = 0
        self._open()

    def add(self, record: UsageRecord) -> bool:
        """Keep it. Beyond `MAX_RECORDS` it is dropped, and counted: False."""
        if len(self.records) >= MAX_RECORDS:
            self.dropped += 1
            return False
        self.records[record.request] = record
        self._append(record)
        return True

    def computed(self, request: int, compute_ns: int, prefill_ns: int) -> None:
        """What computing it took; nothing happens where it is not here (any more)."""
        if (record := self.records.get(request)) is not None:
            self.records[request] = msgspec.structs.replace(record, compute_ns=compute_ns, prefill_ns=prefill_ns)
            self._append(Computed(request, compute_ns, prefill_ns))

    def delivered(self, records: tuple[UsageRecord, ...]) -> None:
        """The ledger has these."""
        for record in records:
            self.records.pop(record.request, None)
        if self._file < 0:
            return
        if not self.records and self._bytes:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                self._bytes = 0
        elif self._bytes > TIDY_BYTES and self._bytes > 400 * len(self.records):
            try:
                self._begin()
            except OSError as error:
                self._without(error)

    def adopt(self) -> list[UsageRecord]:
        """Take what dead ingresses have not delivered. Returns these records."""
        found: list[UsageRecord] = []
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                if path.name.startswith("."):
                    if time.time() - path.stat().st_mtime > ABANDONED_S:
                        path.unlink(missing_ok=True)
                elif path != self._path:
                    found += self._take(path)
        return found

    def close(self) -> None:
        """Leave what is not delivered to others."""
        if self._file >= 0:
            if not self.records:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._begin()
        except OSError as error:
            self._without(error)

    def _begin(self) -> None:
        """A new file with all records, in the place of the one before. It is locked before anybody can find it.

        Raises:
            OSError: it cannot be written.
        """
        fresh = self._path.with_name(f".{self._path.name}")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = b"".join(map(frame, self.records.values()))
            if os.write(file, data) < len(data):
                raise OSError(None, "no room")
            os.rename(fresh, self._path)
        except OSError:
            os.close(file)
            fresh.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._bytes = file, len(data)

    def _append(self, body: UsageRecord | Computed) -> None:
        if self._file < 0:
            return
        data = frame(body)
        try:
            written = os.write(self._file, data)
            self._bytes += written
            if written < len(data):
                os.ftruncate(self._file, self._bytes - written)
                raise OSError(None, "no room")
        except OSError as error:
            self._without(error)

    def _without(self, error: OSError) -> None:
        """What is in the file stays there for whoever comes after this process; the rest it has for itself."""
        log.error("records of usage are kept in memory only, and die with this process: %s", error.strerror)
        if self._file >= 0 and not self._bytes:
            os.close(self._file)
        self._file = -1

    def _take(self, path: Path) -> list[UsageRecord]:
        found: list[UsageRecord] = []
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_ino != path.stat().st_ino:
                    return []  # its writer lives, and has begun another one
                with os.fdopen(os.dup(file), "rb") as reader:
                    for record in read(reader.read()):
                        if record.request not in self.records and self.add(record):
                            found.append(record)
                path.unlink(missing_ok=True)
        finally:
            os.close(file)
        return found


def frame(body: UsageRecord | Computed) -> bytes:
    """A record as it is written."""
    data = _encoder.encode(body)
    return _PREFIX.pack(len(data), zlib.crc32(data)) + data


def read(data: bytes) -> list[UsageRecord]:
    """All whole records, in order. What comes after one that is damaged is lost."""
    found: dict[int, UsageRecord] = {}
    at = 0
    while at + _PREFIX.size <= len(data):
        length, checksum = _PREFIX.unpack_from(data, at)
        body = data[at + _PREFIX.size : at + _PREFIX.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            break
        at += _PREFIX.size + length
        with contextlib.suppress(msgspec.DecodeError):
            record = _record.decode(body)
            found[record.request] = record
            continue
        with contextlib.suppress(msgspec.DecodeError):
            told = _computed.decode(body)
            if (known := found.get(told.request)) is not None:
                found[told.request] = msgspec.structs.replace(
                    known, compute_ns=told.compute_ns, prefill_ns=told.prefill_ns
                )
    return list(found.values())
