"""Who a process is while it runs: its name, and the number of this incarnation.

A name belongs to one process at a time: it holds an exclusive lock on `<name>.lock` in the run directory for its
whole life, which the kernel releases when it dies, however it dies. The file carries the epoch, which goes up by one
each time, so what a dead incarnation still had under way is told from what the living one says.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple, Protocol

import zmq

from bus.blackbox.recorder import NOTHING, Recorder
from bus.loop import Loop
from bus.messages.common import Heartbeat, ProcessState
from bus.names import run_directory
from bus.releases import Troubles
from bus.telemetry import Telemetry


class NameTaken(RuntimeError):
    """Another living process has this name."""


class Identity(Protocol):
    """What an endpoint must know of the process that it is in."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def run(self) -> Path: ...
    @property
    def loop(self) -> Loop: ...
    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def troubles(self) -> Troubles: ...
    @property
    def recorder(self) -> Recorder: ...
    @property
    def state(self) -> ProcessState: ...

    def heartbeat(self) -> Heartbeat:
        """The heartbeat to send now."""
        ...


class Claim(NamedTuple):
    """A name that this process has.

    Attributes:
        lock: the descriptor whose lock holds the name; keep it open.
    """

    epoch: int
    lock: int

    def release(self) -> None:
        """Give the name back, before the process ends. The next epoch is still a higher one."""
        _write(self.lock, f"{self.epoch} 0\n")
        os.close(self.lock)


def claim(name: str, run: Path, *, wait: bool = False) -> Claim:
    """Take a name for this process and count its epoch up.

    Args:
        wait: until whoever has it dies or gives it back: the kernel wakes the first that waits.

    Raises:
        NameTaken: it is held by a living process.
    """
    fd = os.open(run / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 64, 0).decode(errors="replace").split()
        os.close(fd)
        pid = f" (pid {holder[1]})" if len(holder) > 1 else ""
        raise NameTaken(
            f"{name} is running already{pid} in {run}: end that one first, or set HEADRACE_RUN to another directory"
        ) from None
    words = os.pread(fd, 64, 0).split()
    # The wall clock is the floor: a deleted run directory must not start epochs over while old messages are about.
    epoch = max(int(words[0]) + 1 if words and words[0].isdigit() else 1, int(time.time()) - 1_700_000_000)
    _write(fd, f"{epoch} {os.getpid()}\n")
    return Claim(epoch, fd)


def _write(fd: int, line: str) -> None:
    """Whoever reads at the same time finds the new line, if with the end of the old one behind it."""
    os.ftruncate(fd, os.pwrite(fd, line.encode(), 0))


class Visitor:
    """The identity of a program that is not a service: a command, the TUI, a test. Named `role@pid`.

    Args:
        role: "cli", "tui" or "client".
        loop: what its endpoints run on.
    """

    def __init__(self, role: str, loop: Loop, run: Path | None = None) -> None:
        self.role = role
        self.pid = os.getpid()
        self.epoch = time.time_ns() // 1000
        self.name = f"{role}@{self.pid}-{self.epoch}"
        self.run = run or run_directory()
        self.loop = loop
        # The program's own: a context that is collected with open sockets blocks for ever.
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.telemetry = Telemetry()
        self.troubles = Troubles()
        self.recorder = NOTHING
        self.state: ProcessState = "ready"

    def heartbeat(self) -> Heartbeat:
        """Visitors have no progress to speak of."""
        return Heartbeat(progress=0, busy=False, state=self.state)
