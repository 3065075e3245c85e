"""Real worker processes, the real page server, a real model, and a scheduler that says what the test wants."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import Row, as_array, make_plan
from real import assert_as_reference, model_file, reference

from bus.blocks import root_digest
from bus.config import Config
from bus.loop import PollLoop
from bus.memfd import create_memfd
from bus.messages.pages import Lease, Leased, OpenPool, PoolOpened, Stats, StatsQuery
from bus.messages.requests import Sampling
from bus.messages.steps import Registered, Reset, SlotOpen, StepFailed, StepResult, ToSchedulerFromWorker
from bus.names import KV, PAGES_DOOR, STEPS_DOOR, socket_path
from bus.packed import pack_u32, unpack_u32
from bus.process import Life
from bus.server import Peer, Server
from kv.client import attach_blocking, call

pytestmark = [pytest.mark.system, pytest.mark.model]

ARENA_MIB = 256


class Host:
    """A run directory with its processes; an arena that outlives them."""

    def __init__(self, run: Path, *, ranks: int = 1, source: str = "") -> None:
        self.run = run
        self.arena = create_memfd("headrace-arena", ARENA_MIB << 20, "off")
        source = source or str(model_file("smollm2"))
        self.config = run / "headrace.toml"
        self.config.write_text(
            f'[kv]\narena = "{ARENA_MIB}MiB"\n[[model]]\nname = "smol"\nsource = "{source}"\ndtype = "float32"\n'
            f"tensor_parallel = {ranks}\nslots = 4\nthreads = 1\ncontext_tokens = 512\nhang_s = 20.0\n"
        )
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "HEADRACE_RUN": str(self.run), "HEADRACE_STATE": str(self.run / "state")}
        if name == KV:
            environment["HEADRACE_ARENA_FD"] = str(self.arena)
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", name, "-c", str(self.config)],
            env=environment,
            pass_fds=(self.arena,),
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.processes[name]

    def start_kv(self) -> None:
        self.start(KV)
        path = socket_path(KV, PAGES_DOOR, self.run)
        deadline = time.monotonic() + 30
        while not _listens(path):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()
        os.close(self.arena)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
        return knock.connect_ex(str(path)) == 0


class Scheduler:
    """One incarnation: leases pages of the real kv, sends plans, keeps what it hears by rank."""

    def __init__(self, host: Host, epoch: int) -> None:
        self.loop = PollLoop()
        self.life = Life("scheduler@smol", epoch, host.run, Config(), None, self.loop)
        self.client, arena = attach_blocking(self.life, "scheduler")
        assert arena is not None
        self.arena = arena
        self.registered: dict[str, Registered] = {}
        self.results: list[StepResult | StepFailed] = []
        self.left: list[str] = []
        self.step = 0
        self.server: Server[Any] = Server(
            self.life,
            STEPS_DOOR,
            "steps",
            ToSchedulerFromWorker,
            roles=["worker"],
            on_message=self._on_message,
            on_leave=lambda peer, _: self.left.append(peer.name),
        )

    def _on_message(self, peer: Peer, message: Any) -> None:
        if isinstance(message, Registered):
            self.registered[peer.name] = message
        elif peer.name.endswith(".0"):
            self.results.append(message)

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, (self.registered, self.results[-3:])
            self.loop.turn(0.05)

    def wait_for_workers(self, count: int = 1) -> Registered:
        self.until(lambda: len(self.registered) == count)
        return next(iter(self.registered.values()))

    def lease(self, count: int) -> tuple[PoolOpened, bytes, bytes]:
        facts = next(iter(self.registered.values()))
        root = root_digest(facts.weights_digest, facts.kv.dtype, "page-first", facts.kv.page_tokens)
        pool = call(self.client, OpenPool(2, root, facts.kv), PoolOpened)
        leased = call(self.client, Lease(3, pool.pool, count), Leased)
        assert len(leased.pages) == 4 * count
        return pool, leased.pages, leased.generations

    def run(self, rows: list[Row], **changes: Any) -> StepResult | StepFailed:
        self.step += 1
        heard = len(self.results)
        for peer in tuple(self.server.peers.values()):
            self.server.send(peer, make_plan(self.step, rows, **changes))
        self.until(lambda: len(self.results) > heard)
        return self.results[-1]

    def generate(self, prompt: dict[str, Any], count: int, between: Callable[[], None] = lambda: None) -> None:
        """Reset, generate, compare with the reference; `between` is called after half of the tokens."""
        self.step = 0
        for peer in self.server.peers.values():
            self.server.send(peer, Reset(1))
        ids = prompt["ids"]
        _, pages, generations = self.lease(-(-(len(ids) + count) // 16))
        opened = SlotOpen(
            2, 77, pack_u32(ids), len(ids), 0, pages, generations, Sampling(logprobs=0), prompt_logprobs=-1
        )
        results = [self.run([(2, 0, len(ids), True)], opens=[opened])]
        for index in range(count - 1):
            if index == count // 2:
                between()
            results.append(self.run([(2, len(ids) + index, 1, True)]))
        answers = [result for result in results if isinstance(result, StepResult)]
        assert len(answers) == count, results
        tokens = [as_array(answer.tokens)[0] for answer in answers]
        assert_as_reference(prompt, tokens, [answer.logprobs[0][1].chosen for answer in answers])

    def stats(self) -> Stats:
        return call(self.client, StatsQuery(9), Stats)

    def close(self) -> None:
        self.server.close()
        self.client.close()
        self.life.context.destroy(linger=0)


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr-w-") as directory:  # short: socket paths are
        yield Path(directory)


@pytest.fixture
def prompt() -> dict[str, Any]:
    return next(prompt for prompt in reference("smollm2") if prompt["name"] == "hello")


def test_it_serves_through_the_loss_of_kv_and_of_its_scheduler(run: Path, prompt: dict[str, Any]) -> None:
    """One worker process: generates; generates on while kv is killed and started again; registers with the next
    scheduler, whose predecessor's pages come back once it has fenced; ends with 0 when it is told to."""
    host = Host(run)
    try:
        worker = host.start("worker@smol.0.0")
        host.start_kv()
        first = Scheduler(host, epoch=10)
        facts = first.wait_for_workers()
        assert (facts.dtype, facts.slots, facts.context_tokens) == ("float32", 4, 512)
        assert facts.stop_ids
        first.generate(prompt, 6)

        pool, pages, generations = first.lease(3)
        handles = unpack_u32(pages), unpack_u32(generations)
        opened = SlotOpen(1, 5, pack_u32(range(40)), 40, 0, pages, generations, Sampling())
        first.run([(1, 0, 40, False)], opens=[opened])
        committed, valid = first.arena.committed(pool, handles[0], 0)
        assert committed.tolist() == handles[1].tolist()
        assert valid.tolist() == [16, 16, 8]

        def kv_dies() -> None:
            host.processes[KV].kill()
            host.processes[KV].communicate()

        first.generate(prompt, 6, between=kv_dies)
        host.start_kv()
        first.close()
        second = Scheduler(host, epoch=11)
        second.wait_for_workers()
        second.until(lambda: sum(one.leased + one.quarantined for one in second.stats().pools) == 0)
        second.generate(prompt, 6)
        second.close()

        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
    finally:
        host.close()


def test_a_model_that_is_not_there_ends_with_78_and_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_MODELS", str(run / "no models"))
    host = Host(run, source="catalog:qwen2.5-coder-1.5b-instruct")
    try:
        worker = host.start("worker@smol.0.0")
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 78
        assert "headrace pull qwen2.5-coder-1.5b-instruct" in err
    finally:
        host.close()


def test_a_truncated_file_ends_with_78_and_names_it(run: Path) -> None:
    cut = run / "cut.gguf"
    cut.write_bytes(model_file("smollm2").read_bytes()[:5_000_000])
    host = Host(run, source=str(cut))
    try:
        worker = host.start("worker@smol.0.0")
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 78
        assert str(cut) in err
    finally:
        host.close()


def test_two_ranks_serve_and_meet_again_after_one_is_killed(run: Path, prompt: dict[str, Any]) -> None:
    host = Host(run, ranks=2)
    names = ["worker@smol.0.0", "worker@smol.0.1"]
    try:
        host.start_kv()
        ranks = [host.start(name) for name in names]
        scheduler = Scheduler(host, epoch=10)
        scheduler.wait_for_workers(2)
        before = {name: facts.group for name, facts in scheduler.registered.items()}
        assert len(set(before.values())) == 1
        scheduler.generate(prompt, 4)

        ranks[1].kill()
        scheduler.until(lambda: sorted(scheduler.left) == names, seconds=60)
        assert ranks[0].wait(timeout=60) == 70, "the other rank leaves on its own, for the supervisor to start again"

        scheduler.registered.clear()
        for rank, name in zip(ranks, names, strict=True):
            rank.communicate()
            host.start(name)
        scheduler.wait_for_workers(2)
        after = {name: facts.group for name, facts in scheduler.registered.items()}
        assert len(set(after.values())) == 1
        assert set(after.values()).isdisjoint(before.values())
        scheduler.generate(prompt, 4)
        assert np.isfinite(scheduler.results[-1].logprobs[0][1].chosen)  # type: ignore[union-attr]
        scheduler.close()
    finally:
        host.close()
