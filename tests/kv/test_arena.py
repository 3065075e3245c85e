"""Which arena is taken over, which is made anew, and which is left alone because somebody may still write into it."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    first.tables.writers.view(np.uint8)[70] = 1  # an entry of nobody knows whom
    with pytest.raises(ArenaInUse, match="start it anew"):
        open_arena(CONFIG)
    first.tables.writers.view(np.uint8)[70] = 0
    assert not open_arena(CONFIG).adopted


@pytest.mark.usefixtures("handed_down")
def test_the_making_of_an_arena_that_was_interrupted_is_done_again() -> None:
    first = open_arena(CONFIG)
    first.tables.superblock["magic"] = np.void(bytes(8))
    assert not open_arena(CONFIG).adopted
    assert open_arena(CONFIG).adopted


def test_the_witness_knows_the_living_by_pid_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = plan_layout(16 << 20, 1 << 20)
    table = tables(bytearray(layout.data_offset), layout).writers
    witness = Witness(table)
    for number in range(len(table) - 1):
        assert witness.note((number, 1), Writer(owner=7), os.getpid())
    assert not witness.note((9999, 1), Writer(owner=7), os.getpid())
    assert witness.note((5, 1), Writer(owner=7, fenced=3), os.getpid())  # again, with news
    assert witness.note((5, 1), Writer(owner=7, fenced=2), os.getpid())  # and with old news
    assert len(witness.living()) == len(table) - 1
    assert next(known.writer.fenced for known in witness.living() if known.key == (5, 1)) == 3
    witness.forget((5, 1))
    child = subprocess.Popen(["sleep", "60"])
    assert witness.note((6, 1), Writer(owner=7), child.pid)
    child.kill()
    child.wait()
    assert {w.key[0] for w in witness.living()} == set(range(len(table) - 1)) - {5, 6}
    monkeypatch.setattr("kv.witness.start_time", lambda _: 1)  # other processes have the pids now
    assert witness.living() == []
    assert start_time(os.getpid()) > 0
    assert start_time(0) == 0


def test_the_witness_knows_who_may_hold_what() -> None:
    layout = plan_layout(16 << 20, 1 << 20)
    table = tables(bytearray(layout.data_offset), layout).writers
    witness = Witness(table)
    assert witness.note((1, 1), Writer(owner=2), os.getpid())
    assert witness.note_holder((2, 5), os.getpid())
    for number in (1, 64, 3):
        witness.note_pool((2, 5), number)
    assert witness.note_holder((2, 5), os.getpid())  # it has connected again
    assert [(holder.key, holder.pools) for holder in witness.holders()] == [((2, 5), {1, 3, 64})]
    assert [writer.key for writer in witness.living()] == [(1, 1)]
    assert not witness.damaged
    witness.forget((2, 5))
    assert witness.holders() == []


def known(witness: Witness) -> tuple[list[object], list[object]]:
    return [(w.pid, w.key, vars(w.writer)) for w in witness.living()], list(witness.holders())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4 * 64 - 1), st.integers(0, 7)), min_size=1, max_size=9))
def test_of_a_damaged_entry_it_is_known_that_it_is_damaged(flips: list[tuple[int, int]]) -> None:
    layout = plan_layout(16 << 20, 1 << 20)
    table = tables(bytearray(layout.data_offset), layout).writers
    witness = Witness(table)
    for number in range(1, 3):
        assert witness.note((number, 1), Writer(owner=7, fenced=number), os.getpid())
    assert witness.note_holder((3, 1), os.getpid())
    before = known(witness)
    for at, bit in flips:
        table.view(np.uint8)[at] ^= np.uint8(1 << bit)
    if not witness.damaged:
        assert known(witness) == before


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
