"""Ready-to-run weights in one flat file each, mapped by every process that computes with them.

Reading, dequantising and laying out a model takes seconds, and as much memory again in every process that does it. The
first one writes the result to `<state directory>/weights/`; from then on all replicas, standbys and restarts map the
same pages of the page cache, in milliseconds.

    [magic, header's length, header's checksum][header: msgpack][tensors, each 64-byte aligned]

A file appears whole, by rename, and is only ever replaced whole, so a mapping of an older one stays good. One process
makes a file at a time, under the flock of its `.part`; the others wait, and find it. Where it cannot be kept (no space,
a read-only disk) the weights are made in memory, as if there were no store.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import torch
from torch import Tensor

from bus.names import state_directory
from workers.weights import opaque

log = logging.getLogger(__name__)

FORMAT: Final = 1  # of the file; another one is another key
SUFFIX: Final = ".weights"
UNUSED_S: Final = 30 * 86400.0  # a file that nobody opened for so long is swept when another one is made
KEEP_FREE: Final = 1 << 30  # what is left for others on the disk
_ALIGN: Final = 64
_PAGE: Final = 4096
_PREFIX: Final = struct.Struct("<8sQ32s")
_MAGIC: Final = b"HRWEIGHT"
_POPULATE_READ: Final = 22  # MADV_POPULATE_READ of Linux 5.14; not in Python's mmap


class Key(NamedTuple):
    """What a file holds. Files that differ in `layout` only replace each other.

    Attributes:
        digest: of the weight files, see `weights_digest`.
        variant: what was chosen by configuration, such as the dtype.
        rank, ranks: whose share.
        layout: names everything else that the bytes depend on: packing, library versions, instruction set.
    """

    digest: bytes
    variant: str
    rank: int
    ranks: int
    layout: str

    @property
    def prefix(self) -> str:
        """Of the file name; shared by all layouts."""
        return f"{self.digest.hex()[:24]}.{self.variant}.{self.rank}of{self.ranks}."

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.prefix}{hashlib.sha256(f'{FORMAT}|{self.layout}'.encode()).hexdigest()[:16]}{SUFFIX}"

    def __str__(self) -> str:
        return f"{self.digest.hex()} {self.variant} {self.rank}/{self.ranks} {self.layout} format {FORMAT}"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies, from the file's beginning. `description` is of oneDNN's blocked ones."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    description: bytes = b""


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a file says of itself."""

    key: str
    size: int
    tensors: tuple[Entry, ...]


class Broken(ValueError):
    """A file that is not what its name says."""


def directory() -> Path:
    """Where the files are."""
    return state_directory() / "weights"


def open_or_make(key: Key, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors of `key`, mapped from their file, which is made first where it is not there. They are read-only.

    Args:
        make: does the work, where it has to be done. What it raises is passed on.
    """
    path = directory() / key.file
    if (found := _open(path, key)) is not None:
        return found
    with contextlib.ExitStack() as turn:
        try:
            directory().mkdir(mode=0o700, exist_ok=True)
            part = turn.enter_context(_turn(path.with_suffix(".part")))
        except OSError as error:
            _cannot_keep(error)
            return make()
        if (found := _open(path, key)) is not None:  # by whoever had the turn before
            return found
        made = make()
        try:
            _write(part, key, made)
            path.with_suffix(".part").replace(path)
        except OSError as error:
            _cannot_keep(error)
            return made
    _sweep(key)
    if (found := _open(path, key)) is None:
        return made
    del made
    _trim()
    return found


def is_kept(key: Key) -> bool:
    """Whether there is a file that processes of this host share."""
    return (directory() / key.file).exists()


def _cannot_keep(error: OSError) -> None:
    log.warning("weights cannot be kept in %s (%s): this process has its own copy", directory(), error.strerror)


# --- reading ---------------------------------------------------------------------------------------------------------


def _open(path: Path, key: Key) -> Mapping[str, Tensor] | None:
    try:
        tensors = read(path, key)
    except FileNotFoundError:
        return None
    except (OSError, Broken) as error:
        log.warning("%s is made again: %s", path, error)
        return None
    with contextlib.suppress(OSError):  # when it was used last, for the sweep
        os.utime(path)
    return tensors


def read(path: Path, key: Key) -> dict[str, Tensor]:
    """Map a file.

    Raises:
        Broken: cut, damaged, or of another key.
        OSError: it is not there or cannot be mapped.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_header(fd)
        if header.key != str(key):
            raise Broken(f"it is of {header.key}")
        mapping = mmap.mmap(fd, header.size, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        mapping.madvise(_POPULATE_READ)  # the first step should not fault page by page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable": that is the point
        whole = torch.frombuffer(mapping, dtype=torch.uint8)
    try:
        return {entry.name: _tensor(whole, entry) for entry in header.tensors}
    except (RuntimeError, AttributeError, TypeError) as error:
        raise Broken(f"its tensors cannot be used here: {error}") from None


def read_header(fd: int) -> Header:
    """The header of an open file.

    Raises:
        Broken: the file is cut or its header is damaged.
    """
    prefix = os.pread(fd, _PREFIX.size, 0)
    if len(prefix) < _PREFIX.size:
        raise Broken("it is cut")
    magic, length, checksum = _PREFIX.unpack(prefix)
    size = os.fstat(fd).st_size
    if magic != _MAGIC or length > size:
        raise Broken("it is no file of weights")
    encoded = os.pread(fd, length, _PREFIX.size)
    if hashlib.blake2b(encoded, digest_size=32).digest() != checksum:
        raise Broken("its header is damaged")
    try:
        header = msgspec.msgpack.decode(encoded, type=Header)
    except msgspec.DecodeError as error:
        raise Broken(f"its header cannot be read: {error}") from None
    if header.size != size:
        raise Broken(f"it has {size} bytes instead of {header.size}")
    return header


def _tensor(whole: Tensor, entry: Entry) -> Tensor:
    memory = whole[entry.offset : entry.offset + entry.size]
    dtype: torch.dtype = getattr(torch, entry.dtype)
    if entry.description:
        return opaque.over(memory, entry.description, entry.shape, dtype)
    return memory.view(dtype).view(entry.shape)


# --- making ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _turn(part: Path) -> Iterator[int]:
    """The descriptor of an empty `part` that nobody else writes. The file goes if it was not renamed."""
    while True:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Whoever had the lock before has renamed or removed the file that we opened.
        try:
            if os.path.samestat(os.stat(part), os.fstat(fd)):
                break
        except FileNotFoundError:
            pass
        os.close(fd)
    inode = os.fstat(fd)
    try:
        os.ftruncate(fd, 0)
        yield fd
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(part), inode):
                part.unlink()
        os.close(fd)


def _write(fd: int, key: Key, tensors: Mapping[str, Tensor]) -> None:
    """Write a whole file and see it on the disk."""
    began = time.monotonic()
    contents = {name: _content(tensor) for name, tensor in tensors.items()}
    header = _laid_out(key, tensors, contents)
    if shutil.disk_usage(directory()).free < header.size + KEEP_FREE:
        raise OSError(0, f"it would leave less than {KEEP_FREE >> 20} MiB of free space")
    encoded = msgspec.msgpack.encode(header)
    os.posix_fallocate(fd, 0, header.size)
    _put(fd, _PREFIX.pack(_MAGIC, len(encoded), hashlib.blake2b(encoded, digest_size=32).digest()) + encoded, 0)
    written: set[int] = set()
    for entry in header.tensors:
        if entry.size and entry.offset not in written:  # an empty tensor lies where the next one begins
            _put(fd, contents[entry.name], entry.offset)
            written.add(entry.offset)
    os.fsync(fd)
    log.info("kept the weights in %.1f s", time.monotonic() - began, extra={"file": key.file, "bytes": header.size})


def _laid_out(key: Key, tensors: Mapping[str, Tensor], contents: Mapping[str, memoryview]) -> Header:
    """Offsets follow from the header's length, which hardly follows from them: laid out from 0 first."""
    entries: list[Entry] = []
    places: dict[int, int] = {}  # of tensors that have two names
    end = 0
    for name, tensor in tensors.items():
        size = len(contents[name])
        if id(tensor) not in places:
            places[id(tensor)], end = end, _aligned(end + size, _ALIGN)
        description = opaque.describe(tensor) if tensor.is_mkldnn else b""
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append(Entry(name, dtype, tuple(tensor.shape), places[id(tensor)], size, description))
    # A number takes at most nine bytes, wherever it points.
    length = len(msgspec.msgpack.encode(Header(str(key), end, tuple(entries)))) + 8 * (len(entries) + 1)
    begin = _aligned(_PREFIX.size + length, _PAGE)
    moved = tuple(msgspec.structs.replace(entry, offset=begin + entry.offset) for entry in entries)
    return Header(str(key), begin + end, moved)


def _content(tensor: Tensor) -> memoryview:
    if tensor.is_mkldnn:
        return opaque.content(tensor)
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _put(fd: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(fd, left, offset)
        left, offset = left[done:], offset + done


def _aligned(number: int, to: int) -> int:
    return -(-number // to) * to


def _trim() -> None:
    """What making the tensors took goes back to the kernel; glibc would keep most of it for later."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _sweep(key: Key) -> None:
    """Remove what `key`'s file replaces, and what nobody used for long. Whoever has it mapped keeps it."""
    oldest = time.time() - UNUSED_S
    for path in directory().iterdir():
        older_layout = path.name.startswith(key.prefix) and path.name != key.file and path.suffix == SUFFIX
        with contextlib.suppress(OSError):
            if older_layout or path.stat().st_mtime < oldest:
                path.unlink()
                log.info("swept %s", path)
