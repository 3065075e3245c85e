"""Files of tokens in the run directory: there as long as a process holds them, and bounded by those that do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bus.vocabulary import UNUSED_S, Held, Vocabulary, hold, read, sweep

OLD = time.time() - 2 * UNUSED_S
HOLDER = (
    "import sys; from pathlib import Path; from bus.vocabulary import Vocabulary, hold;"
    "hold(Path(sys.argv[1]), Vocabulary((sys.argv[2].encode(),), b'', b'')); print('held', flush=True);"
    "sys.stdin.read()"
)


def one(text: str) -> Vocabulary:
    return Vocabulary((text.encode(),), b"", b"")


def files(run: Path) -> int:
    return len(list(run.iterdir()))


def aged(run: Path) -> None:
    """As if nobody had come for two hours."""
    for path in run.iterdir():
        os.utime(path, (OLD, OLD))


def let_go(held: Held) -> None:
    os.close(held.descriptor)


def test_the_directory_holds_what_processes_hold_and_nothing_older(tmp_path: Path) -> None:
    for number in range(20):
        let_go(hold(tmp_path, one(str(number))))
        aged(tmp_path)
    assert files(tmp_path) == 1
    mine = hold(tmp_path, one("mine"))
    aged(tmp_path)
    sweep(tmp_path)
    assert read(tmp_path, mine.digest) == one("mine")
    assert files(tmp_path) == 1
    let_go(mine)
    sweep(tmp_path, unused_s=2 * UNUSED_S + 3600)
    assert files(tmp_path) == 1  # its process may come back
    sweep(tmp_path)
    assert files(tmp_path) == 0


def test_another_process_holds_until_it_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    let_go(hold(tmp_path, one("x")))  # two of them, for a while
    aged(tmp_path)
    sweep(tmp_path)
    assert files(tmp_path) == 1
    process.kill()
    process.wait()
    sweep(tmp_path)
    assert files(tmp_path) == 0


@pytest.mark.parametrize("name", ["00.1.new", "11.vocabulary"])
def test_what_was_left_half_written_goes_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"ha")
    (tmp_path / "kv.sock").write_bytes(b"")
    aged(tmp_path)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kv.sock"]
