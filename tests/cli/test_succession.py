"""A supervisor that goes on as another program: what it hands down, and what the next one makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.supervisor.children import ARENA_FD_VARIABLE
from cli.supervisor.proc import ARENA_NAME
from cli.supervisor.succession import inherited_arena

# As a Python that runs `-m cli.main run supervisor@host -c FILE` would see it.
HEIR = """#!/bin/sh
echo "pid=$$ $*"
echo "arena=$(cat /proc/self/fd/$HEADRACE_ARENA_FD)"
"""
PREDECESSOR = """
import os, sys
from pathlib import Path
from cli.supervisor.succession import Succession
arena = os.memfd_create("arena")
os.write(arena, b"pages")
os.lseek(arena, 0, os.SEEK_SET)
print("pid", os.getpid(), end=" ")  # not flushed, and must not be lost
Succession(sys.argv[1], Path("/etc/headrace/headrace.toml"), arena).begin()
"""


@pytest.fixture
def arena(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    fd = os.memfd_create(ARENA_NAME)
    os.set_inheritable(fd, True)
    monkeypatch.setenv(ARENA_FD_VARIABLE, str(fd))
    yield fd
    os.close(fd)


def test_the_next_program_is_the_same_process_and_has_the_arena_and_the_configuration(tmp_path: Path) -> None:
    heir = tmp_path / "python"
    heir.write_text(HEIR)
    heir.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", PREDECESSOR, str(heir)], capture_output=True, text=True, timeout=60, check=True
    )
    first, second = done.stdout.splitlines()
    words = first.split()
    assert words[0] == "pid"
    assert words[2] == f"pid={words[1]}"
    assert words[3:] == ["-m", "cli.main", "run", "supervisor@host", "-c", "/etc/headrace/headrace.toml"]
    assert second == "arena=pages"


def test_a_program_that_cannot_be_executed_is_an_error_of_this_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREDECESSOR, str(tmp_path / "nothing")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr


def test_the_arena_that_was_handed_down_is_taken_and_is_not_passed_on_to_children(arena: int) -> None:
    assert inherited_arena() == arena
    assert not os.get_inheritable(arena)
    assert ARENA_FD_VARIABLE not in os.environ, "a child that is not kv must not find it"


def test_a_descriptor_that_is_something_else_is_not_taken_for_the_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as other:
        monkeypatch.setenv(ARENA_FD_VARIABLE, str(other.fileno()))
        assert inherited_arena() is None


@pytest.mark.parametrize("said", ["", "no number", "-1", "999999"])
def test_without_a_predecessor_nothing_is_inherited(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ARENA_FD_VARIABLE, said)
    assert inherited_arena() is None


def test_children_that_died_between_the_two_are_reaped_and_those_that_live_are_left_alone() -> None:
    """In a process of its own: pytest's children are not ours to reap."""
    script = """
import os, signal, sys
from cli.supervisor.succession import reap
reap()  # nobody yet
dead, alive = os.fork(), 0
if dead == 0:
    os._exit(3)
alive = os.fork()
if alive == 0:
    signal.pause()
os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
reap()
print(os.path.exists(f"/proc/{dead}"), os.path.exists(f"/proc/{alive}"))
os.kill(alive, signal.SIGKILL)
os.waitpid(alive, 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False True\n"
