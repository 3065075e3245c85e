"""The segment files: appended to, given up oldest first, read again after a kill. I/O; for one thread at a time.

A batch of pages is one write. Nothing holds a page while it is written: its sum is taken first, then the page's owner
is asked whether it is still the page that it was, and again after the write. Where it is not, the record is not listed,
and whatever of the next owner's bytes is in it does not fit its sum.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from kv.disk.index import Place
from kv.disk.place import DiskPlace
from kv.disk.record import (
    BLOCK,
    Entry,
    Header,
    end_of,
    pack_header,
    pack_tail,
    read_entries,
    record_size,
    sum_of,
    tail_size,
)  # fmt: skip

MAX_BATCH: Final = 256  # records; IOV_MAX is 1024
_RESERVE_MOST: Final = 1 << 30
_RESERVE_SHARE: Final = 20


class Outgoing(NamedTuple):
    """A page on its way to the disk.

    Attributes:
        still: whether `page` holds what it held when it was chosen.
    """

    identity: bytes
    digest: bytes
    parent: bytes
    page: memoryview
    still: Callable[[], bool]


class Appended(NamedTuple):
    """What became of a batch.

    Attributes:
        places: of each page; None where it was not written, or changed hands meanwhile.
        removed: segments that were given up for it.
        error: why the rest was not written.
    """

    places: list[Place | None]
    removed: list[int]
    error: OSError | None


class _Open:
    """The segment that is being written."""

    def __init__(self, number: int, fd: int) -> None:
        self.number, self.fd = number, fd
        self.end = 0
        self.entries: list[Entry] = []


class SegmentLog:
    """All segments of a directory.

    Args:
        place: where; segments of earlier incarnations are there, to be read with `recover`, all before the first
            `append`.

    Attributes:
        bytes: what the files take of the disk. Read by other threads, too.
    """

    def __init__(self, place: DiskPlace) -> None:
        self._place = place
        self._unread = place.segments()
        self._next = self._unread[-1] + 1 if self._unread else 1
        self._sizes: dict[int, int] = {}  # bytes that files take, by segment, oldest first
        self.bytes = 0
        self._open: _Open | None = None
        self._headers = mmap.mmap(-1, MAX_BATCH * BLOCK)  # aligned, as direct I/O wants it

    @property
    def largest_page(self) -> int:
        """More bytes than this have no room in a segment."""
        return self._place.segment_bytes - BLOCK - tail_size(1)

    # --- after a start ---------------------------------------------------------------------------------------------

    def recover(self) -> tuple[int, list[Entry]] | None:
        """Read the next segment of an earlier incarnation; None where there is none left. One that was not closed is
        cut behind its last good record and closed; one without any is removed.

        Raises:
            OSError: it cannot be read. It is left alone and counts as full.
        """
        if not self._unread:
            return None
        number = self._unread.pop(0)
        path = self._place.path(number)
        self._takes(number, path.stat())
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            entries, closed = read_entries(lambda offset, count: os.pread(fd, count, offset), os.fstat(fd).st_size)
            if not closed and entries:
                _finish(fd, entries)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._takes(number, os.fstat(fd))
        finally:
            os.close(fd)
        if not entries:
            self._remove(number)
        return number, entries

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, pages: Sequence[Outgoing]) -> Appended:
        """Write a batch of at most `MAX_BATCH` pages."""
        done = Appended([], [], None)
        rest = list(pages)
        try:
            while rest:
                segment = self._segment_for(rest[0], done.removed)
                fitting = self._fitting(segment, rest)
                done.places.extend(self._write(segment, rest[:fitting]))
                del rest[:fitting]
        except OSError as error:
            self._abandon()
            return Appended(done.places + [None] * len(rest), done.removed, error)
        return done

    def clear(self) -> None:
        """Remove every segment."""
        self._abandon()
        for number in tuple(self._sizes):
            self._remove(number)

    def _segment_for(self, page: Outgoing, removed: list[int]) -> _Open:
        if self._open is not None and not self._fitting(self._open, [page]):
            self._close(self._open)
        if self._open is None:
            self._make_room(removed)
            self._open = self._begin()
        return self._open

    def _fitting(self, segment: _Open, pages: Sequence[Outgoing]) -> int:
        """How many of these have room in it, with its tail."""
        end = segment.end
        for count, page in enumerate(pages):
            end += record_size(len(page.page))
            if end + tail_size(len(segment.entries) + count + 1) > self._place.segment_bytes:
                return count
        return len(pages)

    def _write(self, segment: _Open, pages: Sequence[Outgoing]) -> list[Place | None]:
        buffers: list[memoryview] = []
        written: list[Entry | None] = []
        end = segment.end
        headers = memoryview(self._headers)
        for at, page in enumerate(pages):
            size = len(page.page)
            header = Header(page.identity, page.digest, page.parent, size, sum_of(page.page))
            if not page.still():
                written.append(None)
                continue
            block = headers[at * BLOCK : (at + 1) * BLOCK]
            block[:] = pack_header(header)
            buffers += (block, page.page)
            written.append(Entry(page.identity, page.digest, end, size))
            end += record_size(size)
        if buffers and os.pwritev(segment.fd, buffers, segment.end) != end - segment.end:
            raise OSError(errno.EIO, "a write was cut short")
        segment.end = end
        if not self._place.direct:
            os.fdatasync(segment.fd)
            os.posix_fadvise(segment.fd, 0, end, os.POSIX_FADV_DONTNEED)
        places: list[Place | None] = []
        for entry, page in zip(written, pages, strict=True):
            if entry is not None and page.still():
                segment.entries.append(entry)
                places.append(Place(segment.number, entry.offset))
            else:
                places.append(None)
        return places

    # --- segments --------------------------------------------------------------------------------------------------

    def _make_room(self, removed: list[int]) -> None:
        """Give up segments until there is room for another, within the limit and on the disk: where others fill it,
        a cache is what gives way. They are appended to `removed`.

        Raises:
            OSError: there is none, though nothing is left to be given up.
        """
        size = self._place.segment_bytes
        while True:
            disk = os.statvfs(self._place.directory)
            reserve = min(_RESERVE_MOST, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE)
            full = disk.f_bavail * disk.f_frsize < size + reserve
            if self.bytes + size <= self._place.limit and not full:
                return
            if not self._sizes:
                raise OSError(errno.ENOSPC, f"less than {size + reserve >> 20} MiB are free")
            oldest = next(iter(self._sizes))
            self._remove(oldest)
            removed.append(oldest)

    def _begin(self) -> _Open:
        number, self._next = self._next, self._next + 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_DIRECT if self._place.direct else 0)
        fd = os.open(self._place.path(number), flags, 0o600)
        self._sizes[number] = self._place.segment_bytes
        self.bytes = sum(self._sizes.values())
        try:
            os.posix_fallocate(fd, 0, self._place.segment_bytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # those: the file system cannot, and need not
                os.close(fd)
                self._remove(number)
                raise
        return _Open(number, fd)

    def _close(self, segment: _Open) -> None:
        self._abandon()
        path = self._place.path(segment.number)
        if not segment.entries:
            self._remove(segment.number)
            return
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # not direct: the list is small, and not aligned in memory
        try:
            _finish(fd, segment.entries, segment.end)
            self._takes(segment.number, os.fstat(fd))
        finally:
            os.close(fd)

    def _abandon(self) -> None:
        """Write no more into the open segment. The next start reads it like one that a kill has left."""
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None

    def _takes(self, number: int, status: os.stat_result) -> None:
        self._sizes[number] = status.st_blocks * 512
        self.bytes = sum(self._sizes.values())

    def _remove(self, number: int) -> None:
        self._place.path(number).unlink(missing_ok=True)
        del self._sizes[number]
        self.bytes = sum(self._sizes.values())


def _finish(fd: int, entries: Sequence[Entry], end: int = 0) -> None:
    """Write the tail of a segment behind its records, and wait until all of it is on the device."""
    end = end or end_of(entries)
    os.ftruncate(fd, end)  # first: a kill from here on leaves records, and no tail that says otherwise
    tail = pack_tail(entries, end)
    if os.pwrite(fd, tail, end) != len(tail):
        raise OSError(errno.EIO, "a write was cut short")
    os.fsync(fd)
