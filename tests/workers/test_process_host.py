"""What a worker is to be, from configuration and host; and work beside the loop."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch

from bus.config import Config, ConfigError, ModelConfig
from bus.loop import PollLoop
from bus.names import InvalidName
from workers import host
from workers.background import Background
from workers.host import Unsuitable, assign, cpu_flags, dtype_of
from workers.main import main

CPU = torch.device("cpu")


def config(**fields: object) -> Config:
    return Config(model=(ModelConfig(name="a.b", source="x.gguf", **fields),))  # type: ignore[arg-type]


def test_a_rank_of_a_replica() -> None:
    assignment = assign("worker@a.b.1.3", config(replicas=2, tensor_parallel=4, threads=5))
    assert assignment.instance == ("a.b", 1, 3)
    assert (assignment.ranks, assignment.page_tokens, assignment.threads) == (4, 16, 5)


@pytest.mark.parametrize("name", ["worker@a.b.2.0", "worker@a.b.0.4", "worker@a.b", "worker@a.b.x.y"])
def test_names_that_the_configuration_does_not_have(name: str) -> None:
    with pytest.raises(InvalidName):
        assign(name, config(replicas=2, tensor_parallel=4))


def test_a_model_that_is_not_configured() -> None:
    with pytest.raises(ConfigError, match=r"configured: a\.b"):
        assign("worker@other.0.0", config())


def test_a_gpu_that_is_not_there_is_refused_with_what_is_missing() -> None:
    """And nothing falls back to the CPU."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Unsuitable, match=r"device = \"cuda\": (torch .* without CUDA|there is no NVIDIA driver|torch)"):
        assign("worker@a.b.0.0", config(device="cuda"))


def test_what_cannot_be_ends_with_the_code_for_bad_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        assert main("worker@a.b.0.0", config(device="cuda"), None) == 78
    finally:
        root.handlers[:], root.level = before
    assert 'device = "cuda"' in capfd.readouterr().err.replace("\\", "")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", torch.float32), ("avx512f avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16)],
)
def test_auto_dtype_is_what_the_cpu_computes_in(
    flags: str, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: x\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: other\n")
    found = cpu_flags(cpuinfo)
    assert found == set(flags.split())
    monkeypatch.setattr(host, "cpu_flags", lambda: found)
    assert dtype_of(ModelConfig(name="m", source="s"), CPU) == expected
    assert dtype_of(ModelConfig(name="m", source="s", dtype="float16"), CPU) == torch.float16


def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    two = (ModelConfig(name="a", source="s", replicas=2), ModelConfig(name="b", source="s", tensor_parallel=3))
    assert assign("worker@a.0.0", Config(model=two)).threads == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert assign("worker@a.0.0", Config(model=two)).threads == 1


def test_work_beside_the_loop_calls_back_on_it() -> None:
    loop, heard = PollLoop(), []
    threads: list[int] = []

    def work() -> int:
        threads.append(threading.get_ident())
        return 7

    Background(loop, work, lambda result: heard.append((result, threading.get_ident())), heard.append)
    while not heard:
        loop.turn(0.1)
    assert heard == [(7, threading.get_ident())]
    assert threads != [threading.get_ident()]


def test_work_that_raises_is_told_and_work_that_is_cancelled_is_not() -> None:
    loop, heard = PollLoop(), []
    gate = threading.Event()

    def fails() -> None:
        raise OSError("no such file")

    cancelled = Background(loop, gate.wait, lambda _: heard.append("done"), lambda _: heard.append("error"))
    cancelled.cancel()
    gate.set()
    Background(loop, fails, lambda _: None, lambda error: heard.append(str(error)))
    while not heard:
        loop.turn(0.1)
    loop.turn(0.05)
    assert heard == ["no such file"]
