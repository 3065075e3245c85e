"""The arena's memory: where it comes from, whether it is ours to read, and the views that the core works on."""

from __future__ import annotations

import logging
import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from bus import listen_fds, manager
from bus.config import KvConfig, parse_size
from bus.memfd import create_memfd, exclude_from_core_dumps
from kv.layout import (
    MAGIC,
    MAX_WRITERS,
    SUPERBLOCK,
    WRITER,
    WRITERS_OFFSET,
    ArenaTooSmall,
    Layout,
    Tables,
    plan_layout,
    tables,
)  # fmt: skip
from kv.witness import Witness

log = logging.getLogger(__name__)

STORED_AS: Final = "arena"  # in the service manager's store
LARGEST_ROUNDING: Final = 2 << 20  # of `create_memfd`


class ArenaInUse(RuntimeError):
    """The arena cannot be read, and processes that may write into it live: it must not be given out again."""


class Arena(NamedTuple):
    """A mapped arena. `adopted` says that its content is of an earlier incarnation and may be trusted."""

    fd: int
    memory: mmap.mmap
    layout: Layout
    tables: Tables
    adopted: bool
    kv_epoch: int


def open_arena(config: KvConfig) -> Arena:
    """The arena that was handed down, or a new one.

    An arena that is handed down keeps the slab size it was made with: a changed one takes effect with the next arena.

    Raises:
        MemoryTooSmall: a new one does not fit into this host.
        ArenaTooSmall: not even one slab fits into it.
        ArenaInUse: see there.
    """
    fd = inherited_descriptor()
    if fd is None:
        fd = create_memfd("headrace-arena", parse_size(config.arena), config.hugepages)
        manager.keep_fd(STORED_AS, fd)
    size = os.fstat(fd).st_size
    if size < parse_size(config.arena) or size >= parse_size(config.arena) + LARGEST_ROUNDING:
        log.warning(
            "[kv] arena is %s, the arena in use has %d MiB: it keeps its size until everything is stopped and started",
            config.arena, size >> 20,
        )  # fmt: skip
    memory = mmap.mmap(fd, size)
    exclude_from_core_dumps(np.frombuffer(memory, dtype=np.uint8).ctypes.data, size)
    layout = _layout_within(memory)
    adopted = layout is not None
    if layout is None:
        layout = plan_layout(size, parse_size(config.slab))
        _format(memory, layout)
    views = tables(memoryview(memory), layout)
    views.superblock["kv_epoch"] += 1
    return Arena(fd, memory, layout, views, adopted, int(views.superblock["kv_epoch"][0]))


def inherited_descriptor() -> int | None:
    """From `headrace up` (`$HEADRACE_ARENA_FD`), or from systemd's descriptor store."""
    if given := os.environ.get("HEADRACE_ARENA_FD"):
        return int(given)
    return listen_fds.named(STORED_AS)


def _boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def _layout_within(memory: mmap.mmap) -> Layout | None:
    """The layout of the arena that is there; None where there is none that this program can read."""
    block = np.frombuffer(memory, dtype=SUPERBLOCK, count=1)[0]
    if block["magic"].tobytes() == bytes(len(MAGIC)):
        return None
    if block["magic"].tobytes() == MAGIC and block["boot"].tobytes() == _boot_id() and block["slab_bytes"]:
        try:
            layout = plan_layout(len(memory), int(block["slab_bytes"]))
        except ArenaTooSmall:
            layout = None
        if layout is not None and block["geometry"].tobytes() == layout.geometry:
            return layout
    log.warning("the arena has another layout; starting empty")
    return None


def _format(memory: mmap.mmap, layout: Layout) -> None:
    writers = np.frombuffer(memory, dtype=WRITER, count=MAX_WRITERS, offset=WRITERS_OFFSET)
    witness = Witness(writers)
    if living := witness.living():
        raise ArenaInUse(f"stop the workers first: pid {', '.join(str(writer.pid) for writer in living)}")
    if witness.damaged:
        raise ArenaInUse("its table of writers is damaged, so nobody knows who may still write into it; start it anew")
    memory[: layout.data_offset] = bytes(layout.data_offset)
    block = np.frombuffer(memory, dtype=SUPERBLOCK, count=1)
    block["arena_bytes"], block["slab_bytes"] = layout.arena_bytes, layout.slab_bytes
    block["slabs"], block["header_slots"] = layout.slabs, layout.header_slots
    block["geometry"], block["boot"] = np.void(layout.geometry), np.void(_boot_id())
    block["arena"] = np.void(os.urandom(16))
    block["magic"] = np.void(MAGIC)  # last: an arena whose making was interrupted is made again
