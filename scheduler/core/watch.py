"""Whether a worker hangs in its step: judged by progress against the predicted step time, never by silence.

The time that counts is time in which this scheduler looked: one that was stopped itself, or starved, has seen nothing
and accuses nobody. A worker that uses no CPU meanwhile (stopped, in a collective that nobody joins, in a driver that
does not return) is known to hang much sooner than one that computes: a busy machine slows a worker down, but lets it
have some time in a few seconds.

|                               | uses CPU                                  | uses none     |
|-------------------------------|-------------------------------------------|---------------|
| step times are known          | `hang_s` / 3, and ten times the prediction | `hang_s` / 10 |
| not yet (first steps are slow) | `hang_s`                                  | `hang_s` / 3  |
"""

from __future__ import annotations

from typing import Final

from scheduler.core.cost import CostModel

FACTOR: Final = 10.0
KNOWN: Final = 1 / 3
IDLE: Final = 1 / 10
IDLE_UNKNOWN: Final = 1 / 3
MOST_AT_ONCE_NS: Final = 250_000_000  # of the time between two looks; what is beyond was not looked at
CPU_MOVES_NS: Final = 10_000_000  # the kernel's accounting counts in these


class Watch:
    """The oldest step in flight of one replica, under observation."""

    __slots__ = ("_cpu_ns", "_seen_cpu", "_step", "idle_ns", "waited_ns")

    def __init__(self) -> None:
        self.waited_ns = self.idle_ns = 0
        self._step = -1
        self._cpu_ns = 0
        self._seen_cpu = False

    def look(self, step: int, elapsed_ns: int) -> None:
        """The oldest step is `step` (-1: there is none), `elapsed_ns` after the last look."""
        if step != self._step or step < 0:
            self._step, self._seen_cpu = step, False
            self.waited_ns = self.idle_ns = 0
            return
        elapsed_ns = min(elapsed_ns, MOST_AT_ONCE_NS)
        self.waited_ns += elapsed_ns
        self.idle_ns += elapsed_ns if self._seen_cpu else 0

    def cpu(self, used_ns: int) -> None:
        """All processes of the replica have used so much CPU, since they started."""
        if not self._seen_cpu or used_ns - self._cpu_ns >= CPU_MOVES_NS:
            self._cpu_ns, self._seen_cpu, self.idle_ns = used_ns, True, 0

    def hangs(self, cost: CostModel, predicted_ns: float, hang_ns: float) -> str:
        """Why the step is taken for hung; empty where it is not."""
        if cost.trusted:
            allowed, idle_allowed = max(KNOWN * hang_ns, FACTOR * predicted_ns), IDLE * hang_ns
        else:
            allowed, idle_allowed = hang_ns, IDLE_UNKNOWN * hang_ns
        waited = self.waited_ns / 1e9
        if self.waited_ns > allowed:
            return f"step {self._step} runs for {waited:.1f} s, {allowed / 1e9:.1f} s were allowed"
        if self.idle_ns > idle_allowed:
            return f"step {self._step} runs for {waited:.1f} s and has used no CPU for {self.idle_ns / 1e9:.1f} s"
        return ""
