"""The processes under supervision as the kernel and their control doors show them: who lives, how each says it is, who
does not answer any more. What follows from it is decided elsewhere (`core`)."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from bus.link import Link
from bus.liveness import DeathWatch
from bus.messages.control import Drain, FromProcess, GetStatus, Rejected, Status, Stop, Undrain
from bus.names import CONTROL_DOOR
from bus.process import Life
from cli.supervisor.plan import unit_named
from cli.supervisor.proc import is_stopped, start_ticks

log = logging.getLogger(__name__)

STARTING_PROBE_S: Final = 0.2
READY_PROBES: Final = 10  # a process that is ready is asked each tenth time
HUNG_PROBES: Final = 15  # questions without an answer, two seconds apart
STOPPED_PROBES: Final = 3  # ... of a worker that SIGSTOP holds; no longer than a new request waits for a replica


class Child:
    """A process under supervision."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self.watch: DeathWatch | None = None
        self.link: Link[Any] | None = None
        self.start_ticks = 0
        self.ready = False
        self.unanswered = 0
        self.fingerprint = ""

    def signal(self, number: signal.Signals) -> None:
        """Only ever to the process that we mean: an adopted one is not ours to reap, so its pid may be another's."""
        if self.pid and start_ticks(self.pid) == self.start_ticks:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


class Seen(NamedTuple):
    """What is told of children, each with its name and pid.

    Attributes:
        status: it said how it is.
        death: with its exit code, None where it cannot be known.
        hung: it has not answered for too long.
    """

    status: Callable[[str, Status], None]
    death: Callable[[str, int, int | None], None]
    hung: Callable[[str, int], None]


class Children:
    """All children by name, whether they run or not; made when they are first named."""

    def __init__(self, life: Life, seen: Seen) -> None:
        self._life, self._seen = life, seen
        self._all: dict[str, Child] = {}
        self._probes = self._rid = 0

    def __getitem__(self, name: str) -> Child:
        if name not in self._all:
            child = self._all[name] = Child(name)
            child.link = Link(
                self._life, name, CONTROL_DOOR, "control", FromProcess,
                on_message=lambda message: self._heard(child, message),
                on_up=lambda: self._question(child),
            )  # fmt: skip
        return self._all[name]

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._all.values()))

    def start(self) -> None:
        """Begin to ask them how they are."""
        self._life.loop.every(STARTING_PROBE_S, self._probe)

    def watch(self, child: Child, pid: int) -> None:
        """A child runs as that process."""
        child.pid, child.start_ticks = pid, start_ticks(pid)
        child.ready, child.unanswered = False, 0
        child.watch = DeathWatch(self._life.loop, pid, lambda: self._died(child))

    def promote(self, worker: Child, standby: Child) -> None:
        """The process is the same; from now on it is watched under its new name."""
        worker.popen, worker.fingerprint = standby.popen, standby.fingerprint
        if standby.watch is not None:
            standby.watch.close()
        pid, standby.pid, standby.ready, standby.popen, standby.watch = standby.pid, 0, False, None, None
        self.watch(worker, pid)
        log.info("%s is %s now", standby.name, worker.name, extra={"unit": worker.name, "pid": pid})

    def drain(self, name: str, deadline_s: float) -> None:
        """Tell it to take nothing new."""
        self._tell(self[name], Drain(self._next_rid(), name, deadline_s))

    def undrain(self, name: str) -> None:
        """Tell it to take work again."""
        self._tell(self[name], Undrain(self._next_rid(), name))

    def end(self, name: str, deadline_s: float) -> None:
        """Tell it to drain and end."""
        child = self[name]
        if not self._tell(child, Stop(self._next_rid(), deadline_s)):
            child.signal(signal.SIGTERM)  # it does not listen yet, or any more: the older way of saying it

    def close(self) -> None:
        """Look away. Nobody is ended."""
        for child in self:
            if child.watch is not None:
                child.watch.close()
            if child.link is not None:
                child.link.close()

    def _tell(self, child: Child, message: Drain | Undrain | Stop | GetStatus) -> bool:
        return child.link is not None and child.link.send(message)

    def _died(self, child: Child) -> None:
        pid, child.pid, child.ready = child.pid, 0, False
        code = child.popen.wait() if child.popen is not None and child.popen.pid == pid else _exit_code(pid)
        child.popen = child.watch = None
        log.info("%s ended", child.name, extra={"unit": child.name, "pid": pid, "code": code})
        self._seen.death(child.name, pid, code)

    def _heard(self, child: Child, message: Any) -> None:
        if isinstance(message, Rejected):
            log.info("%s: %s", child.name, message.reason)
        if isinstance(message, Status) and message.pid == child.pid:
            child.unanswered, child.ready = 0, message.state in ("ready", "draining")
            self._seen.status(child.name, message)

    def _question(self, child: Child) -> None:
        if child.pid:
            child.unanswered += 1
            self._tell(child, GetStatus(self._next_rid()))

    def _probe(self) -> None:
        """Ask processes how they are: those that start often, those that are ready now and then."""
        self._probes += 1
        for child in self:
            if child.pid and (not child.ready or self._probes % READY_PROBES == 0):
                self._question(child)
                if child.ready and hangs(child.name, child.pid, child.unanswered):
                    child.unanswered = 0
                    self._seen.hung(child.name, child.pid)

    def _next_rid(self) -> int:
        self._rid += 1
        return self._rid


def hangs(name: str, pid: int, unanswered: int) -> bool:
    """Whether so much silence means that it hangs. A worker's step may take long, and its scheduler knows; but one
    that stands still by a signal computes nothing, and a scheduler that came after that has never met it."""
    if unit_named(name).role == "worker":
        return unanswered > STOPPED_PROBES and is_stopped(pid)
    return unanswered > HUNG_PROBES


def _exit_code(pid: int) -> int | None:
    """Of a child that an earlier supervisor in this process started; None of one that another process did."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
