"""What is left when it is quiet. Whatever died meanwhile, nothing of it may be: no page, no process, no descriptor.

kv is asked to audit itself (`headrace audit`); what it holds for whom is looked at from outside; processes are those of
the kernel, not those that somebody believes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil
from stack import Stack

from bus.messages.control import Audit, Audited
from bus.names import KV, SUPERVISOR
from chaos.checker import Violation
from cli.control import Caller, Unreachable, running_names

QUIET_S: Final = 90.0  # for everybody to be back, and everything to be given back
IDLE_LEASES: Final = 384  # pages that a scheduler keeps at hand: see `scheduler.core.pages`
# Of a process that lives on while others die around it, since it was first looked at.
MORE_DESCRIPTORS: Final = 24
MORE_BYTES: Final = 96 << 20

_LOOK_S: Final = 0.2
_STATES: Final = (  # of TCP, as Linux counts them
    "", "established", "SYN sent", "SYN received", "FIN wait 1", "FIN wait 2", "time wait", "closed",
    "closed by the peer", "last ACK", "listening", "closing",
)  # fmt: skip


class Vitals(msgspec.Struct, frozen=True):
    """One process, as the kernel sees it. `anonymous` is its own memory: neither the arena nor files."""

    name: str
    pid: int
    descriptors: int
    threads: int
    anonymous: int
    proportional: int


class Snapshot(msgspec.Struct, frozen=True):
    """A quiet moment: what each process takes, and how many pages are in which state."""

    at: float
    vitals: list[Vitals]
    pages: dict[str, int]
    quiet_s: float  # how long it took to become quiet


class Auditor:
    """One stack's. It remembers what each process took when it was first looked at."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._first: dict[tuple[str, int], Vitals] = {}

    async def audit(self) -> tuple[Snapshot, list[Violation]]:
        """Wait until it is quiet, and look. Nothing may be under way."""
        began = time.monotonic()
        restless = await self._quiet()
        found = [Violation("processes", problem) for problem in restless]
        found += [Violation("pages", fault) for fault in self._faults()]
        taken = list(vitals(self._stack.run))
        found += [Violation("growth", problem) for problem in self._growth(taken)]
        return Snapshot(time.monotonic(), taken, self._pages(), round(time.monotonic() - began, 2)), found

    async def _quiet(self) -> list[str]:
        """Everybody ready, nothing running, nothing held: what is still not so when patience ends."""
        until = time.monotonic() + QUIET_S
        while (restless := self._restless()) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        return [f"after {QUIET_S:.0f} s without a request: {problem}" for problem in restless]

    def _restless(self) -> list[str]:
        status = self._stack.status()
        waiting = [f"{p['name']} is {p['state']}" for p in status["processes"] if p["state"] != "ready"]
        for model in status["models"]:
            if model["replicas_ready"] < model["replicas"]:
                waiting.append(f"{model['replicas_ready']} of {model['replicas']} replicas are ready")
            if model["running"] or model["waiting"]:
                waiting.append(f"{model['running']} requests run and {model['waiting']} wait")
        if not status["models"]:
            waiting.append("no scheduler answers")
        # One that a dead supervisor had started finds its name taken, and ends: give it time to import so much.
        waiting += self._strangers()
        if waiting:
            return waiting
        with contextlib.suppress(OSError):
            for pool in self._stack.pages().pools:
                if pool.pinned or pool.quarantined or pool.leased > IDLE_LEASES:
                    waiting.append(
                        f"pool {pool.pool}: {pool.pinned} pages pinned, {pool.quarantined} in quarantine, "
                        f"{pool.leased} leased"
                    )
            return waiting
        return [f"{KV} does not answer"]

    def _faults(self) -> list[str]:
        with Caller(self._stack.run) as caller:
            try:
                answer = caller.ask(KV, Audit(0), 30.0)
            except Unreachable as error:
                return [f"no audit: {error}"]
        return list(answer.faults) if isinstance(answer, Audited) else [f"no audit: {answer}"]

    def _pages(self) -> dict[str, int]:
        pages: dict[str, int] = {}
        for pool in self._stack.pages().pools:
            for state in ("total", "free", "leased", "pinned", "cached", "quarantined"):
                pages[state] = pages.get(state, 0) + getattr(pool, state)
        return pages

    def _strangers(self) -> Iterator[str]:
        """Processes of this run directory that nobody has on a list: left over from an incarnation that is dead. An
        ingress may have a child, in which grammars are tried; those of dead parents are the supervisor's."""
        names = running_names(self._stack.run)
        known, keepers = set(names.values()), {names.get(SUPERVISOR, 0), 1}
        for pid, command in self._stack.members().items():
            if pid not in known and parent_of(pid) not in known - keepers:
                yield f"pid {pid} is left over: {command[:200]}"

    def _growth(self, taken: list[Vitals]) -> Iterator[str]:
        for now in taken:
            first = self._first.setdefault((now.name, now.pid), now)
            if now.descriptors > first.descriptors + MORE_DESCRIPTORS:
                kinds = ", ".join(f"{count} {kind}" for kind, count in descriptors(now.pid).most_common())
                yield f"{now.name}: {first.descriptors} descriptors have become {now.descriptors}: {kinds}"
            if now.anonymous > first.anonymous + MORE_BYTES:
                yield f"{now.name}: {first.anonymous >> 20} MiB have become {now.anonymous >> 20}"


def vitals(run: Path) -> Iterator[Vitals]:
    """Of every process that holds a name in a run directory."""
    for name, pid in running_names(run).items():
        with contextlib.suppress(OSError, psutil.Error):
            process = psutil.Process(pid)
            memory = _rollup(pid)
            yield Vitals(
                name, pid, process.num_fds(), process.num_threads(), memory.get("Anonymous", 0), memory.get("Pss", 0)
            )


def descriptors(pid: int) -> Counter[str]:
    """A process's descriptors by what they are, sockets of TCP by their state."""
    states = _tcp_states(pid)
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            kinds[states.get(target) or target.partition(":[")[0]] += 1
    return kinds


def _tcp_states(pid: int) -> dict[str, str]:
    """Of the TCP sockets of a process's network, by the name that a descriptor has."""
    fields = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{each[9]}]": f"TCP {_STATES[int(each[3], 16)]}" for each in fields}


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by kind, from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}


def parent_of(pid: int) -> int:
    """0 of one that is gone."""
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return 0
