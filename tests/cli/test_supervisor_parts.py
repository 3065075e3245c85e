"""The small parts of the supervisor: what it starts, with which environment, where the words go, what it recovers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.config import CacheConfig, Config, GuardConfig, IngressConfig, KvConfig, ModelConfig
from bus.memfd import create_memfd
from cli.supervisor.children import environment, threads_of
from cli.supervisor.logfiles import Tail, last_lines, printable, rotate
from cli.supervisor.plan import desired_units, fingerprint, unit_named
from cli.supervisor.proc import ARENA_NAME, recover_arena, runs_as, start_ticks
from cli.supervisor.state import SavedState, SavedUnit, load_state, save_state

SMALL = ModelConfig(name="small", source="catalog:small")
WIDE = ModelConfig(name="wide.2", source="catalog:wide", replicas=2, tensor_parallel=2)
CONFIG = Config(ingress=IngressConfig(processes=2), model=(SMALL, WIDE))


def test_units_of_a_configuration_in_the_order_of_their_start() -> None:
    assert [unit.name for unit in desired_units(CONFIG)] == [
        "kv@host", "metrics@host", "scheduler@small", "scheduler@wide.2", "worker@small.0.0", "worker@wide.2.0.0",
        "worker@wide.2.0.1", "worker@wide.2.1.0", "worker@wide.2.1.1", "ingress@0", "ingress@1",
    ]  # fmt: skip
    assert unit_named("worker@wide.2.1.0").group == unit_named("worker@wide.2.1.1").group
    assert unit_named("worker@wide.2.0.0").group != unit_named("worker@wide.2.1.0").group


def test_a_fingerprint_changes_with_what_the_process_reads_and_with_nothing_else() -> None:
    other_kv = Config(ingress=CONFIG.ingress, model=CONFIG.model, kv=KvConfig(arena="2GiB"))
    changed = {u.name for u in desired_units(CONFIG) if fingerprint(CONFIG, u.name) != fingerprint(other_kv, u.name)}
    assert changed == {"kv@host"}
    other_model = Config(ingress=CONFIG.ingress, model=(ModelConfig(name="small", source="x.gguf"), WIDE))
    changed = {u.name for u in desired_units(CONFIG) if fingerprint(CONFIG, u.name) != fingerprint(other_model, u.name)}
    assert changed == {"metrics@host", "scheduler@small", "worker@small.0.0", "ingress@0", "ingress@1"}
    other_cache = Config(ingress=CONFIG.ingress, model=CONFIG.model, cache=CacheConfig(ttl_s=60.0))
    other_guard = Config(ingress=CONFIG.ingress, model=CONFIG.model, guard=(GuardConfig(name="pii", kind="pii"),))
    for other in (other_cache, other_guard):
        changed = {u.name for u in desired_units(CONFIG) if fingerprint(CONFIG, u.name) != fingerprint(other, u.name)}
        assert changed == {"ingress@0", "ingress@1"}


def test_workers_share_the_cores_and_the_others_have_one_thread() -> None:
    assert threads_of(unit_named("worker@small.0.0"), CONFIG, 10) == 2
    assert threads_of(unit_named("worker@small.0.0"), CONFIG, 2) == 1
    assert threads_of(unit_named("kv@host"), CONFIG, 10) == 1
    fixed = Config(model=(ModelConfig(name="small", source="x.gguf", threads=7),))
    assert threads_of(unit_named("worker@small.0.0"), fixed, 2) == 7


def test_what_the_operator_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    found = environment(unit_named("worker@small.0.0"), CONFIG, {"OMP_NUM_THREADS": "3"}, 10)
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["GOMP_SPINCOUNT"] == "1000"
    assert found["HEADRACE_STATE"] == str(tmp_path)


def test_a_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tail = Tail(path)
    for number in range(4):
        os.write(writer, b"%d\n" % number * 100)
        assert list(tail.lines()) == [str(number)] * 100
        assert rotate(path, max_bytes=150)
        assert list(tail.lines()) == []
    os.write(writer, b"last\n")
    os.close(writer)
    assert list(tail.lines()) == ["last"]
    assert path.read_bytes() == b"last\n"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.log", "a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_bytes().startswith(b"3\n")
    assert (tmp_path / "a.log.2").read_bytes().startswith(b"2\n")
    assert not rotate(path)
    assert not rotate(tmp_path / "none.log")


def test_a_tail_gives_whole_lines_and_waits_for_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.lines()) == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n")
    assert list(tail.lines()) == ["two"]
    assert last_lines(path, 1) == ["two"]
    assert last_lines(tmp_path / "none", 3) == []
    assert printable("a\x1b[2Jb") == "a�[2Jb"


def test_state_is_read_back_and_a_broken_file_is_none(tmp_path: Path) -> None:
    state = SavedState("c.toml", 7, 8, {"kv@host": SavedUnit(1, 2, 3, "f")})
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    (tmp_path / "supervisor.json").write_text('{"units": 3')
    assert load_state(tmp_path) == SavedState()
    assert load_state(tmp_path / "none") == SavedState()


def test_an_arena_is_recovered_from_a_process_that_only_maps_it() -> None:
    """Its descriptor closed, its memory still mapped: what a worker looks like."""
    fd = create_memfd(ARENA_NAME, 2 << 20, "off")
    os.pwrite(fd, b"here", 4096)
    inode = os.fstat(fd).st_ino
    code = (
        "import mmap, os, sys; fd = int(sys.argv[1]); m = mmap.mmap(fd, 0); os.close(fd); print('mapped', flush=True);"
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(fd)], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"mapped\n"
        os.close(fd)
        again = recover_arena([os.getpid(), holder.pid], inode)
        assert again is not None
        assert os.pread(again, 4, 4096) == b"here"
        assert os.fstat(again).st_ino == inode
        os.close(again)
        assert recover_arena([holder.pid], inode + 1) is None
        assert start_ticks(holder.pid) > 0
        assert runs_as(holder.pid, code)
        assert not runs_as(holder.pid, "kv@host")
    finally:
        holder.stdin.close()
    until_dead = holder.pid
    holder.wait()
    assert start_ticks(until_dead) == 0
    assert recover_arena([until_dead], inode) is None
