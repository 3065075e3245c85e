"""Real ranks in real processes over gloo, and how they find each other."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from driving import PlainPages, make_open, make_plan
from tiny import saved, tiny

from bus.packed import unpack_u32
from workers.group import Alone, NcclGroup
from workers.models.load import load_model
from workers.rendezvous import Rendezvous
from workers.step.execute import Executor
from workers.step.slots import Slots

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
def test_collectives_of_a_gpu_s_group(tmp_path: Path) -> None:
    """Gloo stands in for NCCL. Three ranks: in another order the first sum would be 1."""
    expected = {
        "sum": [[0.0, 6.0]],
        "alone": [[0.0, 6.0]],
        "agreed": [True, False],
        "gathered": [[0, 1, 10, 11, 20, 21]] * 2,
        "shared": [5, 5],
    }
    assert float(torch.tensor(1e8) + torch.tensor(1.0) - torch.tensor(1e8)) == 0.0
    assert run_ranks("device_collectives", tmp_path, 3) == [expected] * 3


def test_a_gpu_s_group_is_made_for_its_device_before_anything_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The communicator is there when the group is, the store is the round's, and what the host waits for is gloo's."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda *given, **named: asked.append({"backend": given[0], **named})
    )
    monkeypatch.setattr(dist, "new_group", lambda **named: asked.append(named))
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", raising=False)
    NcclGroup(Path("/run/x/store"), 1, 2, 30.0, torch.device("cuda", 1))
    made, beside = asked
    assert (made["backend"], made["init_method"], made["device_id"]) == (
        "nccl", "file:///run/x/store", torch.device("cuda", 1)
    )  # fmt: skip
    assert (made["rank"], made["world_size"], made["timeout"].total_seconds()) == (1, 2, 30.0)
    assert beside["backend"] == "gloo"
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


@pytest.mark.system
def test_ranks_keep_their_own_heads_in_device_memory_and_the_arena_has_all(tmp_path: Path) -> None:
    """Given three KV heads over two ranks, then tokens are those of one rank, and full pages in the arena too."""
    path, ids, count = saved(tiny("llama"), tmp_path / "model"), list(range(3, 40)), 6
    model = load_model(path, dtype=torch.float32, device=torch.device("cpu"))
    a = model.architecture
    shape = (6, a.layers, 2, a.kv_heads, 8, a.head_dim)
    pages = PlainPages(torch.zeros(shape))
    slots = Slots(2, 64, 8, a.vocabulary, 6, torch.device("cpu"))
    executor = Executor(model, slots, pages, Alone())
    plans = [make_plan(1, [(0, 0, len(ids), True)], opens=[make_open(0, ids, range(6))])]
    plans += [make_plan(2 + step, [(0, len(ids) + step, 1, True)]) for step in range(count - 1)]
    expected = [int(unpack_u32(executor.run(plan).tokens)[0]) for plan in plans]
    arena = tmp_path / "arena"
    arena.write_bytes(bytes(4 * math.prod(shape)))
    (tmp_path / "group").mkdir()
    job = {"path": str(path), "ids": ids, "count": count, "shape": shape, "arena": str(arena)}
    assert run_ranks("device_pages", tmp_path / "group", job=job) == [expected, expected]
    written = torch.from_file(str(arena), size=math.prod(shape), dtype=torch.float32).view(shape)
    full = (len(ids) + count - 1) // 8
    torch.testing.assert_close(written[:full], pages.tensor[:full], atol=1e-5, rtol=1e-4)
    assert not written[full:].any()


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
