"""Which ranks make up a replica, and whether it is whole, lost, and unable to write. Pure but for the pidfds it keeps.

A replica is *whole* when all its ranks have registered in one group with one geometry. When a rank leaves, it is
*lost*. It is *fenced* when each rank that it had is dead or has registered again: only then nobody can write pages on
its behalf.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import psutil

from bus.liveness import DeathWatch
from bus.loop import Loop
from bus.messages.steps import Registered
from bus.server import Peer

log = logging.getLogger(__name__)

SILENT_NS: Final = 5_000_000_000  # an idle process beats twice a second


class Rank:
    """One registered worker process. `dead` is the kernel's word, not the socket's."""

    def __init__(self, loop: Loop, peer: Peer, registered: Registered, on_death: Callable[[], None]) -> None:
        self.peer = peer
        self.registered = registered
        self.dead = False
        self._on_death = on_death
        self._watch = DeathWatch(loop, peer.pid, self._died)
        try:
            # Held from here on, so that a kill can never hit a process that got the pid later.
            self._pidfd = os.pidfd_open(peer.pid)
        except ProcessLookupError:
            self._pidfd = -1

    def cpu_ns(self) -> int:
        """CPU time that the process has used; 0 where it is gone."""
        try:
            times = psutil.Process(self.peer.pid).cpu_times()
        except psutil.Error:
            return 0
        return int((times.user + times.system) * 1e9)

    def frozen(self, now_ns: int) -> str:
        """Why it would execute nothing now; empty where it would. One that is busy may be silent: a step is not
        interrupted to say anything."""
        if _is_stopped(self.peer.pid):
            return f"{self.peer.name} (pid {self.peer.pid}) is stopped by a signal (SIGSTOP)"
        if not self.peer.busy and now_ns - self.peer.seen_ns > SILENT_NS:
            return f"{self.peer.name} (pid {self.peer.pid}) has nothing to do and says nothing"
        return ""

    def kill(self) -> None:
        """SIGKILL: a process that hangs in a driver or a collective does not hear anything softer."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """Let go of the process."""
        self._watch.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _died(self) -> None:
        self.dead = True
        self._on_death()


class RankGroup:
    """The ranks of one replica.

    Attributes:
        ranks: registered now, by rank.
        drained: an operator wants nothing new placed here.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.ranks: dict[int, Rank] = {}
        self._writers: dict[int, Rank] = {}
        self.whole = False
        self.drained = False

    @property
    def draining(self) -> bool:
        """Whether an operator, or one of the workers about itself, says so."""
        return self.drained or any(rank.peer.state == "draining" for rank in self.ranks.values())

    @property
    def fenced(self) -> bool:
        """Whether nobody of a lost replica can write any more."""
        return not self.whole and all(rank.dead for rank in self._writers.values())

    @property
    def complete(self) -> bool:
        """Whether all ranks are there and agree."""
        if not self.ranks:
            return False
        first = next(iter(self.ranks.values())).registered
        return len(self.ranks) == first.ranks and all(
            msgspec.structs.replace(rank.registered, rank=first.rank) == first for rank in self.ranks.values()
        )

    def enter(self, rank: Rank) -> None:
        """A rank registers, perhaps again: what it had before, it has forgotten."""
        number = rank.registered.rank
        for known in (self.ranks.pop(number, None), self._writers.pop(number, None)):
            if known is not None:
                known.close()
        self.ranks[number] = rank

    def leave(self, peer: Peer) -> bool:
        """A peer is gone from the socket; that is not to say that it is dead. True where it was one of us."""
        for number, rank in self.ranks.items():
            if rank.peer is peer:
                del self.ranks[number]
                self._writers[number] = rank
                return True
        return False

    def lose(self) -> None:
        """The replica is lost: every rank may still write until we know better."""
        self.whole = False
        self._writers.update(self.ranks)
        self.ranks = {}

    def cpu_ns(self) -> int:
        """CPU time that all ranks have used."""
        return sum(rank.cpu_ns() for rank in self.ranks.values())

    def frozen(self, now_ns: int) -> str:
        """Why the replica would execute nothing now; empty where it would."""
        return next((why for rank in self.ranks.values() if (why := rank.frozen(now_ns))), "")

    def kill(self) -> None:
        """End all processes of the replica."""
        for rank in (*self.ranks.values(), *self._writers.values()):
            log.error("killing %s (pid %d)", rank.peer.name, rank.peer.pid)
            rank.kill()

    def close(self) -> None:
        """Let go of all processes."""
        for rank in (*self.ranks.values(), *self._writers.values()):
            rank.close()


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False  # it is gone, which others see
    return stat[stat.rindex(")") + 2] in "Tt"
