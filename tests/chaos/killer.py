"""Carries the schedule out on real processes, and brings the supervisor back, as an operator would.

A victim is what the run directory's lock file names, if its environment agrees: nobody else is ever struck.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from stack import Stack

from bus.names import SUPERVISOR
from chaos.schedule import Blow

APPEAR_S: Final = 8.0  # for a victim that is just being started again
RECOVERY_S: Final = 20.0  # for tokens to flow again: a blow that waits for them waits no longer
_LOOK_S: Final = 0.02
_ATTEMPTS: Final = 5


class Struck(msgspec.Struct, frozen=True):
    """A blow that fell: when (CLOCK_MONOTONIC, seconds), and on which pids. A victim that was not there has none."""

    at: float
    blow: Blow
    pids: dict[str, int]


class Killer:
    """One stack's.

    Args:
        blows: the schedule.
        flow: how many events have come since a moment (CLOCK_MONOTONIC, seconds).

    Attributes:
        struck: what was done.
        trouble: what an operator would have called for help with.
    """

    def __init__(self, stack: Stack, blows: Iterator[Blow], flow: Callable[[float], int]) -> None:
        self.struck: list[Struck] = []
        self.trouble: list[str] = []
        self._stack, self._blows, self._flow = stack, blows, flow
        self._last = 0.0
        self._revival: asyncio.Task[None] | None = None
        self._stopped: dict[int, str] = {}

    async def strike(self, kills: int) -> None:
        """Go on with the schedule until so many processes more were killed."""
        while kills > 0:
            blow = next(self._blows)
            await self._wait(blow)
            pids = {name: pid for name in blow.victims if (pid := await self._find(name))}
            at = self._last = time.monotonic()
            for name, pid in pids.items():
                self._strike(name, pid, blow)
            self.struck.append(Struck(at, blow, pids))
            kills -= len(pids) if blow.how != "stall" else 0

    async def rest(self) -> None:
        """Wait until the supervisor is back; let go of whoever still stands still."""
        if self._revival is not None:
            await self._revival
        for pid, name in self._stopped.items():
            if self._stack.pid(name) == pid:
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()

    def _strike(self, name: str, pid: int, blow: Blow) -> None:
        if blow.how == "kill":
            os.kill(pid, signal.SIGKILL)
            if name == SUPERVISOR and (self._revival is None or self._revival.done()):
                self._revival = asyncio.create_task(self._revive(blow.then_s))
            return
        os.kill(pid, signal.SIGSTOP)
        self._stopped[pid] = name
        if blow.how == "stall":
            asyncio.get_running_loop().call_later(blow.for_s, self._let_go, name, pid)

    def _let_go(self, name: str, pid: int) -> None:
        if self._stopped.pop(pid, None) and self._stack.pid(name) == pid:
            os.kill(pid, signal.SIGCONT)

    async def _wait(self, blow: Blow) -> None:
        until = time.monotonic() + RECOVERY_S
        while self._flow(self._last) < blow.events and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(blow.after_s)

    async def _find(self, name: str) -> int:
        """The victim's pid; where it is not there it is waited for, and killed while it starts."""
        until = time.monotonic() + APPEAR_S
        while not (pid := self._stack.pid(name)) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        return pid

    async def _revive(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        said = b""
        for _ in range(_ATTEMPTS):  # it may be killed again meanwhile: then `up` says so, and is called again
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cli.main", "up", "--detach", "-c", str(self._stack.config),
                env=self._stack.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await process.communicate()
            if process.returncode == 0:
                return
        self.trouble.append(f"headrace up did not bring the supervisor back in {_ATTEMPTS} attempts: {said.decode()}")
