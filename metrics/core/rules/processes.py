"""Processes, by their samples or the lack of them. What a worker does is its scheduler's to judge (`models`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from metrics.core.findings import Condition, Severity
from metrics.core.fleet import LATE_NS, RESTART_WINDOW_NS, SECOND, Member

STALL_WARN_NS: Final = 5 * SECOND
STALL_CRIT_NS: Final = 30 * SECOND
RESTARTS: Final = 3
SETTLED_NS: Final = 30 * SECOND  # a process that has just started is not missing anything yet
# A step may take as long as the cost model says: only schedulers know whether it stands still.
_JUDGED_BY_STEPS: Final = frozenset({"worker", "scheduler"})


def process_conditions(name: str, member: Member, now_ns: int) -> Iterator[Condition]:
    """What one process's samples, or their absence, say."""
    silent, stalled = member.silent_ns(now_ns), member.stalled_ns(now_ns)
    sample = member.sample
    if (times := member.restarts_within(RESTART_WINDOW_NS, now_ns)) >= RESTARTS:
        yield Condition("restart-loop", "crit", name, f"restarted {times} times in 5 min")
    for trouble in sample.troubles[:1]:
        yield Condition("protocol", "warn", name, trouble, cause="releases differ, or one of them has no business here")
    if sample.state == "failed":
        yield Condition("failed", "crit", name, "failed and is not running")
    elif sample.state == "stopped":
        return
    elif member.gone:
        yield Condition("gone", "crit", name, f"silent for {silent / 1e9:.0f} s", cause="dead, stopped or stuck")
    elif silent >= LATE_NS:
        yield Condition("late", "warn", name, f"silent for {silent / 1e9:.0f} s", cause="stopped, stuck, or got no CPU")
    elif stalled >= STALL_WARN_NS and sample.role not in _JUDGED_BY_STEPS:
        severity: Severity = "crit" if stalled >= STALL_CRIT_NS else "warn"
        text = f"has work and made no progress for {stalled / 1e9:.0f} s"
        yield Condition("stalled", severity, name, text)


def absent_conditions(
    expected: Collection[str], standbys: Collection[str], members: dict[str, Member]
) -> Iterator[Condition]:
    """Processes that the configuration asks for and nobody has heard of; standbys that do not wait."""
    for name in expected:
        if name not in members:
            yield Condition("missing", "crit", name, "configured, and was never heard of", cause="it was not started")
    for name in standbys:
        member = members.get(name)
        if member is None or member.gone or member.sample.state != "ready":
            state = member.sample.state if member is not None and not member.gone else "not there"
            yield Condition("standby-missing", "warn", name, f"no standby waits: it is {state}")


class IdleWatch:
    """CPU that processes use while nothing is in hand on the whole host."""

    WINDOW_NS: Final = 60 * SECOND
    CORES: Final = 0.15

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, int, float]] = {}  # name: epoch, when, CPU seconds then
        self._burning: dict[str, float] = {}

    def conditions(self, members: dict[str, Member], now_ns: int, *, idle: bool) -> Iterator[Condition]:
        """Who burns CPU. `idle`: no model has anything in hand now."""
        if not idle:
            self._since.clear()
            self._burning.clear()
            return
        for name, member in members.items():
            sample = member.sample
            epoch, since_ns, cpu_s = self._since.get(name, (-1, 0, 0.0))
            if epoch != sample.epoch or member.gone or sample.state != "ready":
                self._since[name] = (sample.epoch, now_ns, sample.cpu_s)
                self._burning.pop(name, None)
            elif now_ns - since_ns >= self.WINDOW_NS:
                self._burning[name] = (sample.cpu_s - cpu_s) / ((now_ns - since_ns) / 1e9)
                self._since[name] = (sample.epoch, now_ns, sample.cpu_s)
            if (cores := self._burning.get(name, 0.0)) > self.CORES:
                text = f"uses {100 * cores:.0f} % of a core while nothing is in hand"
                yield Condition("idle-burn", "warn", name, text, cause="it spins, or does work that nobody asked for")
        for name in self._since.keys() - members.keys():
            del self._since[name]
            self._burning.pop(name, None)


def behind_conditions(held_up_ns: int, oldest_sample_ns: int) -> Iterator[Condition]:
    """Whether the metrics process itself was held up: then others only seem late.

    Args:
        held_up_ns: that its last look came too late.
        oldest_sample_ns: age of the oldest sample that came since, when it came.
    """
    if held_up_ns >= LATE_NS:
        text = f"did not run for {held_up_ns / 1e9:.1f} s"
        yield Condition("metrics-behind", "warn", "metrics@host", text, cause="stopped, or got no CPU")
    elif oldest_sample_ns >= LATE_NS:
        text = f"hears samples that are {oldest_sample_ns / 1e9:.1f} s old"
        yield Condition("metrics-behind", "warn", "metrics@host", text, cause="more telemetry than it can take in")
