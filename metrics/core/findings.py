"""What an operator should know, from what was collected. Rules say what is wrong now; `Alarms` says since when.

A condition becomes a finding when it has held for `RAISE_NS` and ends when it has been away for `CLEAR_NS`: one that
flickers is one finding, not twenty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from bus.messages.observe import Finding, ModelLoad, PageLoad
from metrics.core.fleet import LATE_NS, RESTART_WINDOW_NS, SECOND, Member

RAISE_NS: Final = SECOND
CLEAR_NS: Final = 5 * SECOND
STALL_WARN_NS: Final = 5 * SECOND
STALL_CRIT_NS: Final = 30 * SECOND
RESTARTS: Final = 3
QUEUE_FLOOR: Final = 8
QUEUE_HISTORY_NS: Final = 10 * SECOND
HIT_FLOOR: Final = 0.2
HIT_MEMORY: Final = 0.005  # weight of the newest ratio at 2 Hz: a memory of about 100 s
PAGES_LOW: Final = 0.05

Severity = Literal["warn", "crit"]


class Condition(NamedTuple):
    """Something is wrong now."""

    code: str
    severity: Severity
    subject: str
    text: str
    advice: str


def process_conditions(name: str, member: Member, now_ns: int) -> Iterator[Condition]:
    """What one process's samples, or their absence, say."""
    silent, stalled = member.silent_ns(now_ns), member.stalled_ns(now_ns)
    state = member.sample.state
    if member.restarts_within(RESTART_WINDOW_NS, now_ns) >= RESTARTS:
        times = member.restarts_within(RESTART_WINDOW_NS, now_ns)
        yield Condition(
            "restart-loop", "crit", name, f"restarted {times} times in 5 min", "read its log for the exit it repeats"
        )
    if state == "failed":
        yield Condition("failed", "crit", name, "failed and is not running", "read its log, then restart it")
    elif state == "stopped":
        return
    elif member.gone:
        yield Condition(
            "gone", "crit", name, f"silent for {silent / 1e9:.0f} s: dead or stuck", "restart it if it does not return"
        )
    elif silent >= LATE_NS:
        yield Condition("late", "warn", name, f"silent for {silent / 1e9:.0f} s", "restart it if it stays silent")
    elif stalled >= STALL_WARN_NS:
        severity: Severity = "crit" if stalled >= STALL_CRIT_NS else "warn"
        yield Condition(
            "stalled", severity, name, f"has work and made no progress for {stalled / 1e9:.0f} s", "restart it"
        )


def page_conditions(pages: PageLoad, preemptions_per_s: float) -> Iterator[Condition]:
    """Whether the arena is at its end."""
    usable = pages.free + pages.cached
    if pages.total and not pages.slabs_free and usable < PAGES_LOW * pages.total:
        yield Condition(
            "pages-exhausted",
            "crit" if preemptions_per_s > 0 else "warn",
            "kv@host",
            f"{usable} of {pages.total} pages left for new tokens"
            + (f", {preemptions_per_s:.1f} preemptions/s" if preemptions_per_s > 0 else ""),
            "raise [kv] arena, or lower slots of a model",
        )


def own_conditions(ledger: str, traces: str) -> Iterator[Condition]:
    """Whether what requests use can be written down, and spans be sent: why not, or empty."""
    if ledger:
        yield Condition(
            "ledger-stuck", "warn", "metrics@host", f"usage is not written: {ledger}",
            "make room on the disk of the state directory; ingresses keep 50,000 records each until then",
        )  # fmt: skip
    if traces:
        yield Condition("traces-off", "warn", "metrics@host", traces, "install it, or leave [traces] out")


class ModelWatch:
    """One model's recent past, for what only a trend shows."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._usual_hits = -1.0

    def conditions(self, load: ModelLoad, now_ns: int) -> Iterator[Condition]:
        """What this line, after those before it, says."""
        yield from self._replicas(load)
        yield from self._queue(load, now_ns)
        yield from self._hits(load)

    def _replicas(self, load: ModelLoad) -> Iterator[Condition]:
        ready, wanted = load.replicas_ready, load.replicas
        if wanted and not ready:
            yield Condition(
                "no-replica", "crit", load.model, "no replica is ready: requests wait or are refused",
                "look at its workers in the fleet",
            )  # fmt: skip
        elif ready < wanted:
            yield Condition(
                "replicas-missing", "warn", load.model, f"{ready} of {wanted} replicas ready",
                "look at its workers in the fleet",
            )  # fmt: skip

    def _queue(self, load: ModelLoad, now_ns: int) -> Iterator[Condition]:
        self._waiting.append((now_ns, load.waiting))
        while self._waiting[0][0] < now_ns - QUEUE_HISTORY_NS:
            self._waiting.popleft()
        before = self._waiting[0][1]
        if load.waiting >= QUEUE_FLOOR and load.waiting > 1.5 * before:
            yield Condition(
                "queue-growing", "warn", load.model,
                f"queue grew from {before} to {load.waiting} in 10 s, the oldest waits {load.oldest_wait_s:.1f} s",
                "add a replica, or expect refusals when it is full",
            )  # fmt: skip
        if load.refused_per_s > 0:
            yield Condition(
                "refusing", "warn", load.model, f"refuses {load.refused_per_s:.1f} requests/s",
                "add a replica, or raise queue_requests if the wait is acceptable",
            )  # fmt: skip

    def _hits(self, load: ModelLoad) -> Iterator[Condition]:
        now = load.prefix_hit_ratio
        if now < 0:
            return
        usual = self._usual_hits
        self._usual_hits = now if usual < 0 else usual + HIT_MEMORY * (now - usual)
        if usual > HIT_FLOOR and now < usual / 2:
            yield Condition(
                "prefix-hits-dropped", "warn", load.model, f"prefix hits {now:.0%}, usually {usual:.0%}",
                "prompts no longer share a beginning, or pages are evicted early",
            )  # fmt: skip


class _Alarm:
    __slots__ = ("condition", "last_ns", "since_ns")

    def __init__(self, condition: Condition, now_ns: int) -> None:
        self.condition = condition
        self.since_ns = self.last_ns = now_ns


class Alarms:
    """Conditions over time, by (code, subject)."""

    def __init__(self) -> None:
        self._alarms: dict[tuple[str, str], _Alarm] = {}

    def step(self, conditions: Iterator[Condition], now_ns: int) -> tuple[Finding, ...]:
        """The findings as of now, critical ones first, then the oldest first."""
        for condition in conditions:
            alarm = self._alarms.setdefault((condition.code, condition.subject), _Alarm(condition, now_ns))
            alarm.condition, alarm.last_ns = condition, now_ns
        for key, alarm in list(self._alarms.items()):
            raised = alarm.last_ns - alarm.since_ns >= RAISE_NS
            if now_ns - alarm.last_ns >= (CLEAR_NS if raised else RAISE_NS):
                del self._alarms[key]
        raised_now = [alarm for alarm in self._alarms.values() if alarm.last_ns - alarm.since_ns >= RAISE_NS]
        raised_now.sort(key=lambda alarm: (alarm.condition.severity != "crit", alarm.since_ns, alarm.condition.subject))
        return tuple(
            Finding(c.code, c.severity, c.subject, c.text, alarm.since_ns, c.advice)
            for alarm in raised_now
            for c in (alarm.condition,)
        )
