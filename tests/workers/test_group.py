"""Real ranks in real processes over gloo, and how they find each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import saved, tiny

from workers.rendezvous import Rendezvous

RANK = Path(__file__).with_name("rank.py")


def run_ranks(scenario: str, directory: Path, ranks: int = 2, job: object = None) -> list[Any]:
    """What each rank printed; None for one that died."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANK), scenario, str(directory), str(rank), str(ranks), json.dumps(job)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [json.loads(output) if output else None for output in outputs]


@pytest.mark.system
def test_collectives(tmp_path: Path) -> None:
    expected = {"sum": [3.0, 3.0], "gathered": [[0, 1, 2, 10]] * 2, "shared": [5, 5]}
    assert run_ranks("collectives", tmp_path) == [expected, expected]


@pytest.mark.system
def test_every_rank_has_the_tokens_that_rank_0_drew(tmp_path: Path) -> None:
    first, second = run_ranks("draws", tmp_path)
    assert len(first["tokens"]) == 5
    assert second["tokens"] == []
    assert first["sequence"] == second["sequence"] == [1, 2, 3, *first["tokens"]]


@pytest.mark.system
def test_logits_that_are_not_finite_fail_the_step_on_every_rank(tmp_path: Path) -> None:
    first, second = run_ranks("poisoned", tmp_path)
    assert first == {"failed": [[2], True], "slots": [2]}
    assert second == {"failed": [[2], True], "slots": []}


@pytest.mark.system
def test_a_rank_that_dies_breaks_the_group_and_hangs_nobody(tmp_path: Path) -> None:
    assert run_ranks("one_dies", tmp_path) == [{"broken": True, "within_timeout": True}, None]


@pytest.mark.system
def test_ranks_at_different_plans_break_the_group(tmp_path: Path) -> None:
    assert run_ranks("disagree", tmp_path) == [{"broken": True}, {"broken": True}]


@pytest.mark.system
@pytest.mark.parametrize("family", ["mixtral", "gemma3_text", "phi3"])
def test_ranks_of_a_family_draw_what_transformers_draws(family: str, tmp_path: Path) -> None:
    """Experts, windows with two ropes, fused parts: each over two processes that share three KV heads."""
    model = tiny(family)
    path, ids = saved(model, tmp_path / "model"), list(range(3, 70))
    with torch.inference_mode():
        drawn = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=None)
    expected = drawn[0, len(ids) :].tolist()
    (tmp_path / "group").mkdir()
    job = {"path": str(path), "ids": ids, "count": 8}
    assert run_ranks("family", tmp_path / "group", job=job) == [expected, expected]


# --- rendezvous, with seats taken by processes that do nothing else ---------------------------------------------------


@contextmanager
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take_seat(round_: Path, rank: int, pid: int) -> None:
    (round_ / f"seat{rank}").write_text(str(pid))


def the_round(directory: Path) -> Path:
    (found,) = [entry for entry in directory.iterdir() if entry.name.isdigit()]
    return found


def test_all_ranks_meet_in_the_same_round(tmp_path: Path) -> None:
    late = Rendezvous(tmp_path, 1, 3, epoch=50)
    assert late.poll() is None, "there is no host yet"
    host = Rendezvous(tmp_path, 0, 3, epoch=7)
    assert host.poll() is None
    assert late.poll() is None, "seated, but one is missing"
    other = Rendezvous(tmp_path, 2, 3, epoch=9)
    assert other.poll() is None, "the host has not said go"
    meeting = host.poll()
    assert meeting is not None
    assert meeting.pids == (os.getpid(),) * 3
    assert late.poll() == other.poll() == meeting


def test_a_rank_that_restarts_waits_for_a_new_round(tmp_path: Path) -> None:
    host = Rendezvous(tmp_path, 0, 2, epoch=7)
    with somebody() as earlier:
        take_seat(the_round(tmp_path), 1, earlier.pid)
        old = host.poll()
        assert old is not None
        assert Rendezvous(tmp_path, 1, 2, epoch=3).poll() is None, "its seat is taken: that group is not its own"
    restarted = Rendezvous(tmp_path, 1, 2, epoch=4)
    assert restarted.poll() is None
    again = Rendezvous(tmp_path, 0, 2, epoch=8)
    assert restarted.poll() is None
    new = again.poll()
    assert new is not None
    assert restarted.poll() == new
    assert new.number > old.number
    assert new.store != old.store


def test_a_seat_whose_process_died_opens_another_round(tmp_path: Path) -> None:
    host = Rendezvous(tmp_path, 0, 2, epoch=7)
    with somebody() as rank:
        take_seat(the_round(tmp_path), 1, rank.pid)
    assert host.poll() is None
    restarted = Rendezvous(tmp_path, 1, 2, epoch=4)
    assert restarted.poll() is None
    assert host.poll() is not None
    assert restarted.poll() is not None


def test_a_process_that_ended_and_was_not_reaped_is_dead(tmp_path: Path) -> None:
    host = Rendezvous(tmp_path, 0, 2, epoch=7)
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    before = the_round(tmp_path)
    take_seat(before, 1, zombie.pid)
    assert host.poll() is None
    assert the_round(tmp_path) != before
    zombie.wait()


def test_rounds_of_a_dead_host_are_nobodys(tmp_path: Path) -> None:
    with somebody() as host:
        (tmp_path / "7001").mkdir()
        take_seat(tmp_path / "7001", 0, host.pid)
    assert Rendezvous(tmp_path, 1, 2, epoch=4).poll() is None
    assert not (tmp_path / "7001" / "seat1").exists()
