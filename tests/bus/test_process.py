"""The life of a process, by running one: names, signals, drain, exit codes, control door."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.identity import Claim, NameTaken, Visitor, claim
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.control import Drain, FromProcess, GetStatus, Ok, Status, Stop, Undrain

PROGRAM = """
import sys
from bus.config import Config
from bus.process import Description, run_process

class Service:
    def __init__(self, life):
        self.life, self.work = life, 3
    def start(self):
        if "fail" in sys.argv: self.life.fail("the disk is on fire", 69)
        elif "bug" in sys.argv: raise RuntimeError("bug")
        else: self.life.ready()
    def describe(self): return Description(load=0.5, detail="fine", counters=(("drained", float(self.work)),))
    def drain(self): self.life.loop.every(0.05, self.less)
    def less(self): self.work = max(0, self.work - 1) if not {"stuck", "hands on"} & set(sys.argv) else self.work
    def undrain(self): pass
    def drained(self): return self.work == 0
    def hand_over(self):
        if "hands on" in sys.argv: self.work = 0
    def stop(self): print("stopped with", self.work, flush=True)
    def control(self, message): return None

sys.exit(run_process("metrics@host", Config(), None, Service, loop=sys.argv[1]))
"""


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("r")


def start(run: Path, loop: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, loop, *arguments],
        env={**os.environ, "HEADRACE_RUN": str(run), "HEADRACE_STATE": str(run)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class Operator:
    """Asks one process through its control door."""

    def __init__(self, run: Path) -> None:
        self.loop = PollLoop()
        self.answers: list[object] = []
        self.link: Link[FromProcess] = Link(
            Visitor("cli", self.loop, run), "metrics@host", "control", "control", FromProcess,
            on_message=self.answers.append,
        )  # fmt: skip

    def ask(self, question: object) -> object:
        deadline = time.monotonic() + 20
        while not self.link.up and time.monotonic() < deadline:
            self.loop.turn(0.05)
        self.answers.clear()
        assert self.link.send(question)  # type: ignore[arg-type]
        while not self.answers and time.monotonic() < deadline:
            self.loop.turn(0.05)
        return self.answers[0]


@pytest.mark.parametrize("loop", ["uv", "poll"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_zero(run: Path, loop: str, number: signal.Signals) -> None:
    process, operator = start(run, loop), Operator(run)
    deadline = time.monotonic() + 20
    while True:  # its door opens before it is ready
        status = operator.ask(GetStatus(1))
        assert isinstance(status, Status)
        if status.state != "starting" or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert (status.state, status.name, status.pid, status.load) == ("ready", "metrics@host", process.pid, 0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "stopped with 0\n")


def test_drain_and_undrain_and_stop_by_the_control_door(run: Path) -> None:
    process, operator = start(run, "poll"), Operator(run)
    assert operator.ask(Drain(1)) == Ok(1, "draining", "ready", "draining")
    assert operator.ask(Undrain(2)) == Ok(2, "ready", "draining", "ready")
    assert operator.ask(Stop(3)) == Ok(3, "ready", "ready", "ready")
    assert process.wait(timeout=20) == 0


def test_what_is_left_at_the_deadline_is_handed_on(run: Path) -> None:
    process, operator = start(run, "uv", "hands on"), Operator(run)
    operator.ask(Stop(1, deadline_s=0.3))
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "stopped with 0\n")
    assert "work in hand" not in errors


def test_a_drain_that_never_ends_is_ended_a_while_after_its_deadline(run: Path) -> None:
    process, operator = start(run, "uv", "stuck"), Operator(run)
    operator.ask(Stop(1, deadline_s=0.3))
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "stopped with 3\n")
    assert "ending with work in hand" in errors


@pytest.mark.parametrize("loop", ["uv", "poll"])
def test_a_second_signal_ends_at_once(run: Path, loop: str) -> None:
    process, operator = start(run, loop, "stuck"), Operator(run)
    operator.ask(GetStatus(1))
    process.send_signal(signal.SIGTERM)
    operator.ask(GetStatus(2))  # it drains, for half a minute
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, "stopped with 3\n")
    assert "ending with work in hand" not in errors


@pytest.mark.parametrize(
    ("argument", "code", "words"), [("fail", 69, "the disk is on fire"), ("bug", 70, "RuntimeError: bug")]
)
@pytest.mark.parametrize("loop", ["uv", "poll"])
def test_failure_has_its_exit_code_and_says_why(run: Path, loop: str, argument: str, code: int, words: str) -> None:
    process = start(run, loop, argument)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert words in errors


def test_a_name_belongs_to_one_process_and_epochs_grow(run: Path) -> None:
    process, operator = start(run, "poll"), Operator(run)
    first = operator.ask(GetStatus(1))
    second = start(run, "poll")
    _, errors = second.communicate(timeout=20)
    assert second.returncode == 75
    assert f"running already (pid {process.pid})" in errors
    process.kill()
    process.wait()
    third, operator = start(run, "poll"), Operator(run)
    later = operator.ask(GetStatus(1))
    assert isinstance(first, Status)
    assert isinstance(later, Status)
    assert later.epoch > first.epoch
    third.terminate()
    assert third.wait(timeout=20) == 0


def test_claim_is_released_with_the_descriptor(run: Path) -> None:
    first = claim("kv@host", run)
    with pytest.raises(NameTaken, match="kv@host is running already"):
        claim("kv@host", run)
    os.close(first.lock)  # as the kernel does it at the end of a process
    again = claim("kv@host", run)
    assert again.epoch > first.epoch
    again.release()
    assert claim("kv@host", run).epoch > again.epoch


def test_a_claim_can_wait_for_the_name(run: Path) -> None:
    first = claim("kv@host", run)
    found: list[Claim] = []
    waiter = threading.Thread(target=lambda: found.append(claim("kv@host", run, wait=True)))
    waiter.start()
    assert not found
    first.release()
    waiter.join(timeout=20)
    assert found[0].epoch > first.epoch
    assert (run / "kv@host.lock").read_text() == f"{found[0].epoch} {os.getpid()}\n"
