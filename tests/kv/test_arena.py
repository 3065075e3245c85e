"""Which arena is taken over, which is made anew, and which is left alone because somebody may still write into it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from bus.config import KvConfig
from bus.memfd import MemoryTooSmall, create_memfd
from kv.arena import Arena, ArenaInUse, inherited_descriptor, open_arena
from kv.layout import ArenaTooSmall, plan_layout, tables
from kv.owners import Writer
from kv.witness import Witness, start_time

CONFIG = KvConfig(arena="16MiB", slab="1MiB", hugepages="off")


@pytest.fixture
def handed_down(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    fd = create_memfd("headrace-arena", 16 << 20, "off")
    monkeypatch.setenv("HEADRACE_ARENA_FD", str(fd))
    yield fd
    os.close(fd)


def written_to(arena: Arena) -> Witness:
    """A worker, this process, may write into the arena."""
    witness = Witness(arena.tables.writers)
    assert witness.note((1, 2), Writer(owner=3, fenced=4), os.getpid())
    return witness


def test_a_new_arena_is_made_where_none_is_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ARENA_FD", raising=False)
    arena = open_arena(CONFIG)
    assert not arena.adopted
    assert arena.kv_epoch == 1
    os.close(arena.fd)


def test_an_arena_is_taken_over_with_the_slabs_it_was_made_with(handed_down: int) -> None:
    first = open_arena(CONFIG)
    first.tables.slab_pool[3] = 9
    second = open_arena(KvConfig(arena="64MiB", slab="2MiB", hugepages="off"))
    assert (first.fd, second.fd) == (handed_down, handed_down)
    assert (first.adopted, second.adopted) == (False, True)
    assert (first.kv_epoch, second.kv_epoch) == (1, 2)
    assert second.layout == first.layout
    assert second.tables.slab_pool[3] == 9


@pytest.mark.usefixtures("handed_down")
@pytest.mark.parametrize("field", ["magic", "boot", "geometry", "slab_bytes"])
def test_an_arena_of_others_is_made_anew_when_nobody_writes(field: str) -> None:
    first = open_arena(CONFIG)
    first.tables.slab_pool[3] = 9
    first.tables.superblock.view(np.uint8)[first.tables.superblock.dtype.fields[field][1]] ^= 0xFF
    second = open_arena(CONFIG)
    assert not second.adopted
    assert second.tables.slab_pool[3] == 0


def test_an_unreadable_arena_is_left_alone_while_somebody_may_write(handed_down: int) -> None:
    first = open_arena(CONFIG)
    witness = written_to(first)
    first.tables.superblock["geometry"] = np.void(bytes(32))
    before = mmap.mmap(handed_down, 16 << 20)[:]
    with pytest.raises(ArenaInUse, match=f"pid {os.getpid()}"):
        open_arena(CONFIG)
    assert mmap.mmap(handed_down, 16 << 20)[:] == before
    witness.forget((1, 2))
    assert not open_arena(CONFIG).adopted


@pytest.mark.usefixtures("handed_down")
def test_the_making_of_an_arena_that_was_interrupted_is_done_again() -> None:
    first = open_arena(CONFIG)
    first.tables.superblock["magic"] = np.void(bytes(8))
    assert not open_arena(CONFIG).adopted
    assert open_arena(CONFIG).adopted


def test_the_witness_knows_the_living_by_pid_and_start() -> None:
    layout = plan_layout(16 << 20, 1 << 20)
    table = tables(bytearray(layout.data_offset), layout).writers
    witness = Witness(table)
    for number in range(len(table)):
        assert witness.note((number, 1), Writer(owner=7), os.getpid())
    assert not witness.note((9999, 1), Writer(owner=7), os.getpid())
    assert witness.note((5, 1), Writer(owner=7, fenced=3), os.getpid())  # again, with news
    assert len(witness.living()) == len(table)
    assert next(known.writer.fenced for known in witness.living() if known.key == (5, 1)) == 3
    witness.forget((5, 1))
    table["started"][6] += 1  # another process has the pid now
    assert {w.key[0] for w in witness.living()} == set(range(len(table))) - {5, 6}
    assert start_time(os.getpid()) > 0
    assert start_time(0) == 0


def test_systemds_descriptor_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ARENA_FD", raising=False)
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "other:arena")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert inherited_descriptor() == 4
    monkeypatch.setenv("LISTEN_PID", "1")
    assert inherited_descriptor() is None


def test_arenas_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_ARENA_FD", raising=False)
    with pytest.raises(MemoryTooSmall):
        open_arena(KvConfig(arena="1024TiB", hugepages="off"))
    with pytest.raises(ArenaTooSmall):
        open_arena(KvConfig(arena="4MiB", slab="32MiB", hugepages="off"))
