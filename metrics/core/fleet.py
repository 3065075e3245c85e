"""The latest sample of each process, and what its arrivals say: late, gone, restarting, not progressing. No series."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from bus.messages.telemetry import Sample

SECOND: Final = 1_000_000_000
LATE_NS: Final = 2 * SECOND  # four samples missed
GONE_NS: Final = 15 * SECOND
FORGET_NS: Final = 600 * SECOND
RESTART_WINDOW_NS: Final = 300 * SECOND
MAX_PROCESSES: Final = 1_024
CPU_POINTS: Final = 21  # ten seconds of samples

Verdict = Literal["known", "first", "restarted", "stale", "too_many"]


class Member:
    """One process name.

    Attributes:
        seen_ns: arrival of its latest sample.
        progress_ns: when its progress last moved, or it was last idle.
        restarts: arrival times of the incarnations after the first that was seen.
    """

    __slots__ = ("_cpu", "gone", "progress_ns", "restarts", "sample", "seen_ns")

    def __init__(self, sample: Sample, now_ns: int) -> None:
        self.sample = sample
        self.seen_ns = self.progress_ns = now_ns
        self.restarts: deque[int] = deque(maxlen=16)
        self.gone = False
        self._cpu: deque[tuple[int, float]] = deque([(now_ns, sample.cpu_s)], maxlen=CPU_POINTS)

    def took(self, sample: Sample, now_ns: int) -> None:
        """Its newest sample."""
        if sample.epoch != self.sample.epoch:
            self._cpu.clear()
        self.sample, self.seen_ns, self.gone = sample, now_ns, False
        self._cpu.append((now_ns, sample.cpu_s))

    @property
    def cores(self) -> float:
        """CPU time that it takes, of late, in cores."""
        (began_ns, before), (ended_ns, after) = self._cpu[0], self._cpu[-1]
        return max(0.0, after - before) / ((ended_ns - began_ns) / 1e9) if ended_ns > began_ns else 0.0

    def silent_ns(self, now_ns: int) -> int:
        """Age of its latest sample."""
        return now_ns - self.seen_ns

    def stalled_ns(self, now_ns: int) -> int:
        """How long it has had work and made no progress; 0 for one that is idle."""
        return now_ns - self.progress_ns if self.sample.busy else 0

    def restarts_within(self, window_ns: int, now_ns: int) -> int:
        """How often it came back in the window."""
        return sum(at > now_ns - window_ns for at in self.restarts)


class Fleet:
    """Every process that was heard of lately."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}

    def take(self, sample: Sample, now_ns: int) -> Verdict:
        """A sample arrived. "stale" and "too_many" ones change nothing."""
        member = self.members.get(sample.name)
        if member is None:
            if len(self.members) >= MAX_PROCESSES:
                return "too_many"
            self.members[sample.name] = Member(sample, now_ns)
            return "first"
        if sample.epoch < member.sample.epoch:
            return "stale"
        restarted = sample.epoch > member.sample.epoch
        if restarted:
            member.restarts.append(now_ns)
        if restarted or not sample.busy or sample.progress != member.sample.progress:
            member.progress_ns = now_ns
        member.took(sample, now_ns)
        return "restarted" if restarted else "known"

    def expire(self, now_ns: int) -> tuple[list[str], list[str]]:
        """Names that are gone as of now, and names that are forgotten."""
        gone, forgotten = [], []
        for name, member in list(self.members.items()):
            silent = member.silent_ns(now_ns)
            limit = LATE_NS if member.sample.state in ("stopped", "failed") else GONE_NS
            if silent >= limit and not member.gone:
                member.gone = True
                gone.append(name)
            if silent >= FORGET_NS or (member.gone and member.sample.state == "stopped"):
                del self.members[name]
                forgotten.append(name)
        return gone, forgotten

    def forgive(self, ns: int) -> None:
        """Nobody was listened to for so long: it does not count as their silence."""
        for member in self.members.values():
            member.seen_ns += ns
            member.progress_ns += ns

    def samples(self) -> tuple[Sample, ...]:
        """Of the processes that are there, by name."""
        return tuple(member.sample for _, member in sorted(self.members.items()) if not member.gone)
