"""Pages from disk into the arena, each believed only when its sum fits. I/O; any number at a time, on any thread."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from kv.disk.index import Place
from kv.disk.place import DiskPlace
from kv.disk.record import BLOCK, parse_header, record_size, sum_of


class Outcome(Enum):
    """What became of a read."""

    GOOD = "good"
    GONE = "gone"  # its segment was given up meanwhile
    DAMAGED = "damaged"  # not what was written
    FAILED = "failed"  # the disk says no


class Read(NamedTuple):
    """A read that is over. `parent` is that of the block, where the page is good."""

    outcome: Outcome
    parent: bytes = b""
    error: str = ""


class Wanted(NamedTuple):
    """A page, and what is to be in it. Until the read is over nobody else may read or write there; unless it was good,
    it holds rubbish."""

    identity: bytes
    digest: bytes
    page: memoryview


def read_pages(disk: DiskPlace, place: Place, wanted: Sequence[Wanted]) -> list[Read]:
    """Fill pages from records that lie one behind the other, the first at `place`."""
    path = disk.path(place.segment)
    headers = memoryview(mmap.mmap(-1, len(wanted) * BLOCK))  # aligned, as direct I/O wants it
    blocks = [headers[at * BLOCK : (at + 1) * BLOCK] for at in range(len(wanted))]
    buffers = [buffer for block, page in zip(blocks, wanted, strict=True) for buffer in (block, page.page)]
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if disk.direct else 0))
    except FileNotFoundError:
        return [Read(Outcome.GONE)] * len(wanted)
    except OSError as error:
        return [Read(Outcome.FAILED, error=f"{path}: {error.strerror}")] * len(wanted)
    try:
        left = os.preadv(fd, buffers, place.offset)
        if not disk.direct:
            os.posix_fadvise(fd, place.offset, left, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return [Read(Outcome.FAILED, error=f"{path}: {error.strerror}")] * len(wanted)
    finally:
        os.close(fd)
    reads = []
    for block, page in zip(blocks, wanted, strict=True):
        left -= record_size(len(page.page))
        header = parse_header(block)
        if (
            left >= 0
            and header is not None
            and (header.identity, header.digest, header.size) == (page.identity, page.digest, len(page.page))
            and header.page_sum == sum_of(page.page)
        ):
            reads.append(Read(Outcome.GOOD, header.parent))
        else:
            reads.append(Read(Outcome.DAMAGED, error=f"{path}: the record of {page.digest.hex()} is damaged"))
    return reads
