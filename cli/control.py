"""Asking processes from a command, blocking: one question, one answer, a deadline. The protocol is the bus's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec

from bus.identity import Visitor
from bus.link import Link
from bus.loop import PollLoop
from bus.messages.common import Nack
from bus.messages.control import Fleet, FromProcess, GetFleet, GetStatus, Question, Reply, Status
from bus.names import CONTROL_DOOR, SUPERVISOR, InvalidName, parse_process, run_directory, socket_path
from cli.supervisor.proc import start_ticks

ASK_TIMEOUT_S: Final = 5.0
STATUS_TIMEOUT_S: Final = 1.0


class Unreachable(Exception):
    """A process does not run, does not answer, or refuses to talk; the message says which."""


def running_names(run: Path | None = None) -> dict[str, int]:
    """Processes of this run directory that are alive, with their pids, by the name locks that they hold. The pid is 0
    for those of another user's stack."""
    found: dict[str, int] = {}
    for lock in sorted((run or run_directory()).glob("*@*.lock")):
        name = lock.name.removesuffix(".lock")
        try:
            parse_process(name)
            pid = int(lock.read_text().split()[1])
        except PermissionError:  # another user's stack, which we may look at: whoever listens, runs
            if socket_path(name, CONTROL_DOOR, lock.parent).exists():
                found[name] = 0
            continue
        except (InvalidName, OSError, ValueError, IndexError):
            continue
        if start_ticks(pid):
            found[name] = pid
    return found


class Caller:
    """Asks control doors. Use as a context manager; not thread-safe.

    Args:
        run: the run directory of the stack; `$HEADRACE_RUN` and its fall-backs when not given.
    """

    def __init__(self, run: Path | None = None) -> None:
        self._loop = PollLoop()
        self._visitor = Visitor("cli", self._loop, run)
        self._links: dict[str, Link[Any]] = {}
        self._answers: dict[int, Reply] = {}
        self._refusals: dict[str, str] = {}
        self._rid = 0

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def visitor(self) -> Visitor:
        """Who asks."""
        return self._visitor

    @property
    def run(self) -> Path:
        """The run directory of the stack."""
        return self._visitor.run

    def turn(self, seconds: float) -> None:
        """Let what has come be heard; wait for it at most so long."""
        self._loop.turn(seconds)

    def close(self) -> None:
        """Say bye."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._loop.close()

    def ask(self, name: str, question: Question, timeout_s: float = ASK_TIMEOUT_S) -> Reply:
        """One answer of one process.

        Raises:
            Unreachable: it does not run, or does not answer in time.
        """
        if name not in running_names(self._visitor.run):
            raise Unreachable(f"{name} does not run here (run directory {self._visitor.run})")
        answer = self.ask_all({name: question}, timeout_s).get(name)
        if answer is None:
            raise Unreachable(f"{name}: {self.refusal(name) or f'no answer within {timeout_s:.0f} s'}")
        return answer

    def refusal(self, name: str) -> str:
        """Why a process that was asked does not talk to us; empty where it did not say."""
        link = self._links.get(name)
        return self._refusals.pop(name, "") or (link.refusal if link is not None else "")

    def ask_all(self, questions: Mapping[str, Question], timeout_s: float = STATUS_TIMEOUT_S) -> dict[str, Reply]:
        """Answers of many processes, asked at once. Those that do not answer in time are left out."""
        waiting: dict[int, str] = {}
        unsent: dict[str, Question] = {}
        for name, question in questions.items():
            self._rid += 1
            waiting[self._rid] = name
            unsent[name] = msgspec.structs.replace(question, rid=self._rid)
            if name not in self._links:
                self._links[name] = self._connect(name)
        deadline = time.monotonic() + timeout_s
        while self._hopeful(waiting) and (left := deadline - time.monotonic()) > 0:
            for name in [name for name in unsent if self._links[name].up]:
                if self._links[name].send(unsent[name]):
                    del unsent[name]
            self._loop.turn(min(left, 0.05))
        return {name: self._answers.pop(rid) for rid, name in waiting.items() if rid in self._answers}

    def fleet(self, timeout_s: float = STATUS_TIMEOUT_S) -> Fleet | None:
        """What the supervisor says, where there is one."""
        try:
            answer = self.ask(SUPERVISOR, GetFleet(0), timeout_s)
        except Unreachable:
            return None
        return answer if isinstance(answer, Fleet) else None

    def statuses(self, names: Iterable[str], timeout_s: float = STATUS_TIMEOUT_S) -> dict[str, Status]:
        """What processes say of themselves."""
        answers = self.ask_all({name: GetStatus(0) for name in names}, timeout_s)
        return {name: answer for name, answer in answers.items() if isinstance(answer, Status)}

    def _hopeful(self, waiting: Mapping[int, str]) -> bool:
        """Whether there is anybody who may still answer."""
        return any(rid not in self._answers and not self._links[name].refusal for rid, name in waiting.items())

    def _connect(self, name: str) -> Link[Any]:
        socket_path(name, CONTROL_DOOR, self._visitor.run)  # too long a path: say so now
        return Link(self._visitor, name, CONTROL_DOOR, "control", FromProcess, on_message=self._receiver(name))

    def _receiver(self, name: str) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            if isinstance(message, Nack):
                self._refusals[name] = f"{message.reason}: {message.detail}"
            elif isinstance(message, Reply):
                self._answers[message.rid] = message

        return receive
