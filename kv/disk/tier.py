"""The disk tier of a page server: threads do what the core wants written and read, and the core hears how it went.

Reads come first: nothing new is written while somebody waits for a page. A disk that fails is left alone for a while;
what is on it can be computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bus.process import Life
from kv.arena import Arena
from kv.core import Core
from kv.disk.log import MAX_BATCH, Appended, Outgoing, SegmentLog
from kv.disk.place import DiskPlace
from kv.disk.reader import Outcome, Read, Wanted, read_pages
from kv.disk.record import Entry
from kv.disk.threads import IoThreads
from kv.fills import Fill
from kv.headers import Headers
from kv.layout import SEALED
from kv.pool import Pool
from kv.spills import Spill

log = logging.getLogger(__name__)

READERS: Final = 8
BATCH_BYTES: Final = 8 << 20  # about 4 ms of a good disk: so long may a read have to wait for a write
RETRY_S: Final = 60.0
_FAILURES_IN_A_ROW: Final = 3
_HANGS_S: Final = 2.0
_REMEMBERED_READS: Final = 0.98
_FIRST_READ_BYTES: Final = 8 << 20


class ReadRate:
    """Bytes a second of the last fifty reads or so, counted over the time in which there were any."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes, self._s = float(_FIRST_READ_BYTES), _FIRST_READ_BYTES / bytes_per_s
        self._since = 0.0
        self._running = 0

    def began(self, now_s: float) -> None:
        """A read."""
        if not self._running:
            self._since = now_s
        self._running += 1

    def ended(self, now_s: float, size: int) -> float:
        """A read, of so many bytes. Returns the rate."""
        self._running -= 1
        self._bytes = self._bytes * _REMEMBERED_READS + size
        self._s = self._s * _REMEMBERED_READS + max(now_s - self._since, 1e-6)
        self._since = now_s
        return self._bytes / self._s


@dataclass(slots=True)
class Trouble:
    """Of one direction: why it is off, if it is, and until when."""

    why: str = ""
    until_s: float = 0.0
    in_a_row: int = 0
    total: int = 0


class DiskTier:
    """Moves pages between the arena and `disk`.

    Args:
        on_answers: called when the core may have answers to send.
    """

    def __init__(self, life: Life, arena: Arena, core: Core, disk: DiskPlace, on_answers: Callable[[], None]) -> None:
        self._life, self._core, self.disk, self._on_answers = life, core, disk, on_answers
        self._data = memoryview(arena.memory)[arena.layout.data_offset :]
        self._headers = Headers(arena.tables.headers)
        self._log = SegmentLog(disk)
        self._writer = IoThreads(life.loop, "disk-write", 1)
        self._readers = IoThreads(life.loop, "disk-read", READERS)
        self._rate = ReadRate(core.fills.bytes_per_s)
        self._began: dict[Fill, float] = {}
        self._recovered = False
        self._too_large: set[int] = set()
        self.reads, self.writes = Trouble(), Trouble()
        self.damaged = 0
        core.spills.largest_page = self._log.largest_page
        core.on_clear = self._clear

    def start(self) -> None:
        """Read what earlier incarnations have left; meanwhile pages are found as far as that has come."""
        self._writer.run(self._recover, self._on_recovered)

    def close(self) -> None:
        """Stop. What was being written is found, or found to be incomplete, by the next start."""
        self._writer.close()
        self._readers.close()

    @property
    def bytes(self) -> int:
        """What the files take."""
        return self._log.bytes

    @property
    def quiet(self) -> bool:
        """Whether nothing is left to be written, or can be."""
        return bool(self.writes.why) or (self._recovered and self._writer.idle > 0 and not self._core.spills.waiting)

    @property
    def trouble(self) -> str:
        """What does not work; empty where all does."""
        return ", ".join(
            f"{what}: {trouble.why}"
            for what, trouble in (("not read", self.reads), ("not written", self.writes))
            if trouble.why
        )

    @property
    def text(self) -> str:
        """For status."""
        state = self.trouble
        return f"disk {self.bytes / (1 << 30):.1f} of {self.disk.limit / (1 << 30):.1f} GiB" + (
            f" ({state})" if state else ""
        )

    def tick(self) -> None:
        """Now and then: try again what failed long enough ago, see whether a read hangs or a pool is left out."""
        now = self._now_s
        for pool in self._core.pools.values():
            if pool.grid.stride > self._log.largest_page and pool.number not in self._too_large:
                self._too_large.add(pool.number)
                log.warning(
                    "pages of %d bytes are not kept on disk: with this limit a segment has %d; raise [kv] disk",
                    pool.grid.stride, self.disk.segment_bytes,
                )  # fmt: skip
        for trouble in (self.reads, self.writes):
            if trouble.why and now >= trouble.until_s:
                trouble.why = ""
        oldest = min(self._began.values(), default=now)
        self._core.fills.usable = not self.reads.why and now - oldest < _HANGS_S
        self.pump()

    def pump(self) -> None:
        """Give the threads what there is to do. Whenever there may be something new."""
        while self._readers.idle and (batch := self._core.fills.next(BATCH_BYTES, MAX_BATCH)):
            self._read(batch)
        may_write = self._recovered and self._writer.idle and not self.writes.why and not self._core.fills.busy
        if may_write and (spills := self._core.spills.next(BATCH_BYTES, MAX_BATCH)):
            self._write(spills)
        self._on_answers()

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read(self, batch: list[Fill]) -> None:
        now = self._began[batch[0]] = self._now_s
        self._rate.began(now)
        pool = self._core.pools[batch[0].pool]
        wanted = [Wanted(fill.identity, fill.digest, self._page(pool, fill.cell)) for fill in batch]
        self._readers.run(
            lambda: read_pages(self.disk, batch[0].place, wanted),
            lambda reads: self._on_read(batch, len(batch) * pool.grid.stride, reads),
        )

    def _on_read(self, batch: list[Fill], size: int, reads: list[Read]) -> None:
        del self._began[batch[0]]
        self._core.fills.bytes_per_s = self._rate.ended(self._now_s, size)
        if reads[0].outcome is Outcome.FAILED:  # all of them, then
            self._failed(self.reads, "reads", reads[0].error)
            self._core.fills.usable = not self.reads.why
        else:
            self.reads.in_a_row = 0
        for fill, read in zip(batch, reads, strict=True):
            if read.outcome in (Outcome.GONE, Outcome.DAMAGED):
                self._core.spills.lost_copy(fill.identity, fill.digest, fill.place.segment)
            if read.outcome is Outcome.DAMAGED:
                self.damaged += 1
                log.warning("%s; the page is computed again", read.error)
            self._core.fills.done(fill, read.parent if read.outcome is Outcome.GOOD else None)
        self.pump()

    # --- writing ---------------------------------------------------------------------------------------------------

    def _write(self, batch: list[Spill]) -> None:
        pool = self._core.pools[batch[0].pool]
        pages = [
            Outgoing(spill.identity, spill.digest, spill.parent, self._page(pool, spill.cell), self._still(pool, spill))
            for spill in batch
        ]
        self._writer.run(lambda: self._log.append(pages), lambda done: self._on_written(batch, done))

    def _still(self, pool: Pool, spill: Spill) -> Callable[[], bool]:
        """Whether a page is what it was when it was chosen, by its header, which whoever evicts it writes first."""
        headers, at = self._headers, pool.grid.header_of(spill.cell)

        def still() -> bool:
            header = headers.read(at)
            return header is not None and (header.state, header.pool, header.generation, header.digest) == (
                SEALED, spill.pool, spill.generation, spill.digest,
            )  # fmt: skip

        return still

    def _on_written(self, batch: list[Spill], done: Appended) -> None:
        for spill, place in zip(batch, done.places, strict=True):
            self._core.spills.done(spill, place)
        for segment in done.removed:  # perhaps the one that these were written to
            self._core.spills.removed(segment)
        if done.error is not None:
            self._failed(self.writes, "writes", done.error.strerror or str(done.error), at_once=True)
        self.pump()

    def _clear(self) -> None:
        # Once more when it is done: a batch that was on its way is in the index by then.
        self._writer.run(self._log.clear, lambda _: self._core.spills.forget_all())

    # --- the rest --------------------------------------------------------------------------------------------------

    def _recover(self) -> tuple[int, list[Entry]] | OSError | None:
        try:
            return self._log.recover()
        except OSError as error:
            return error

    def _on_recovered(self, found: tuple[int, list[Entry]] | OSError | None) -> None:
        if found is None:
            self._recovered = True
            log.info("%d pages on disk", self._core.copies.pages)
            self.pump()
            return
        if isinstance(found, OSError):
            self._failed(self.reads, "reads", str(found))
        else:
            self._core.copies.add_segment(*found)
        self._writer.run(self._recover, self._on_recovered)

    def _failed(self, trouble: Trouble, what: str, why: str, *, at_once: bool = False) -> None:
        trouble.total += 1
        trouble.in_a_row += 1
        if not trouble.why and (at_once or trouble.in_a_row >= _FAILURES_IN_A_ROW):
            trouble.why, trouble.until_s, trouble.in_a_row = why, self._now_s + RETRY_S, 0
            log.error("%s of %s fail: %s; tried again in %.0f s", what, self.disk.directory, why, RETRY_S)

    def _page(self, pool: Pool, cell: int) -> memoryview:
        return self._data[cell * pool.grid.stride : (cell + 1) * pool.grid.stride]

    @property
    def _now_s(self) -> float:
        return self._life.loop.now_ns() / 1e9
