"""The terminal goes away in the middle of an action: it was done whole, and is in the audit log, or it was not done."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.actionlog import read_actions
from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.control import FromProcess, GetStatus, Status

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
SERVER = """
import sys
from bus.config import Config
from bus.process import Description, run_process

class Service:
    def __init__(self, life): self.life = life
    def start(self): self.life.ready()
    def describe(self): return Description()
    def drain(self): pass
    def undrain(self): pass
    def drained(self): return False
    def hand_over(self): pass
    def stop(self): pass
    def control(self, message): return None

sys.exit(run_process("kv@host", Config(), None, Service, loop="poll"))
"""


class Screen:
    """`headrace top` on a terminal of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 34, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "admin_tui"], env=environment, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = b""

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read(self, seconds: float) -> None:
        """Whatever is drawn meanwhile: a terminal always reads."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 1 << 16)

    def until(self, text: str) -> None:
        """The deadline only stops a test that fails."""
        deadline = time.monotonic() + 40
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, self.seen[-2000:]
            self.read(0.1)

    def hang_up(self) -> None:
        """Once: the descriptor's number is somebody else's afterwards."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    for name in ("r", "s"):
        (directory / name).mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    given = {"HEADRACE_RUN": str(home / "r"), "HEADRACE_STATE": str(home / "s"), "XDG_STATE_HOME": str(home),
             "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none", "PYTHONPATH": str(ROOT)}  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    return {**kept, **given}


@pytest.fixture
def server(environment: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, cwd=home, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()


def state(run: Path) -> str:
    """What the process says of itself."""
    loop, answers = PollLoop(), []
    link: Link[FromProcess] = Link(
        Visitor("cli", loop, run), "kv@host", "control", "control", FromProcess, on_message=answers.append
    )
    deadline = time.monotonic() + 20
    while not answers and time.monotonic() < deadline:
        link.send(GetStatus(1))
        loop.turn(0.1)
    link.close()
    loop.close()
    (answer, *_) = answers
    assert isinstance(answer, Status)
    return answer.state


@pytest.fixture
def screen(environment: dict[str, str], server: subprocess.Popen[bytes]) -> Iterator[Callable[[], Screen]]:  # noqa: ARG001
    opened: list[Screen] = []

    def open_screen() -> Screen:
        opened.append(Screen(environment))
        return opened[-1]

    yield open_screen
    for each in opened:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        each.hang_up()


@pytest.mark.parametrize("moment", ["asked", "given", "a moment later", "answered"])
def test_an_action_is_whole_or_not_at_all(home: Path, screen: Callable[[], Screen], moment: str) -> None:
    top = screen()
    top.press("2")
    top.until("kv@host")  # metrics is not there: it says so itself
    top.press("D")
    top.until("Takes nothing new")
    if moment != "asked":
        top.press("\t\r")
    if moment == "a moment later":
        top.read(0.05)
    if moment == "answered":
        top.until("draining")
    top.hang_up()
    assert top.process.wait(timeout=30) is not None
    done = read_actions(home / "s" / "audit")
    assert state(home / "r") == ("draining" if done else "ready")
    assert [record.result for record in done] in ([], ["done"])
    if moment == "asked":
        assert done == []
    if moment == "answered":
        assert [(record.verb, record.object, record.program) for record in done] == [("drain", "kv@host", "tui")]


def test_a_screen_that_is_ended_gives_no_order(home: Path, screen: Callable[[], Screen]) -> None:
    top = screen()
    top.press("2")
    top.until("kv@host")
    top.press("D")
    top.until("Takes nothing new")
    top.process.send_signal(signal.SIGTERM)
    top.process.wait(timeout=30)
    assert read_actions(home / "s" / "audit") == []
    assert state(home / "r") == "ready"
