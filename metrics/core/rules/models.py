"""Models, by what their schedulers measure, and what only a trend shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from bus.messages.observe import ModelLoad
from bus.messages.vitals import StepLine
from metrics.core.findings import Condition
from metrics.core.fleet import SECOND

QUEUE_FLOOR: Final = 8
QUEUE_HISTORY_NS: Final = 10 * SECOND
HIT_FLOOR: Final = 0.2
HIT_MEMORY: Final = 0.005  # weight of the newest ratio at 2 Hz: a memory of about 100 s
PACE_NS: Final = 10 * SECOND
PACE_STEPS: Final = 30  # fewer say nothing
PACE_SLOW: Final = 1.6  # times what the model of step times says, over all steps of the window together
DEADLINE_S: Final = 2.0


class Targets(NamedTuple):
    """What is asked of a model, in seconds; 0 is not judged."""

    ttft_s: float = 0.0
    inter_token_s: float = 0.0
    queue_wait_s: float = 0.0


class Told(NamedTuple):
    """What a scheduler says of its model beside the load.

    Attributes:
        stuck: what its work waits for that does not come; `stuck_s` is how long.
        deadline_s: until the next deadline of a request that waits; negative where none has one.
    """

    stuck: str = ""
    stuck_s: float = 0.0
    deadline_s: float = -1.0


NO_TARGETS: Final = Targets()
NOTHING_TOLD: Final = Told()


class ModelWatch:
    """One model's recent past."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._usual_hits = -1.0

    def conditions(
        self, load: ModelLoad, now_ns: int, targets: Targets = NO_TARGETS, told: Told = NOTHING_TOLD
    ) -> Iterator[Condition]:
        """What this line, after those before it, says."""
        yield from self._replicas(load)
        yield from self._queue(load, now_ns)
        yield from self._hits(load)
        yield from _against(load, targets)
        if told.stuck or told.stuck_s > 0:
            text = f"accepted work stands still for {told.stuck_s:.0f} s"
            yield Condition("standing-still", "crit", load.model, text, cause=told.stuck)
        if 0 <= told.deadline_s < DEADLINE_S:
            text = f"a request that waits has {told.deadline_s:.1f} s until its deadline"
            yield Condition("deadline-near", "warn", load.model, text, cause=f"{load.waiting} wait")

    def _replicas(self, load: ModelLoad) -> Iterator[Condition]:
        ready, wanted = load.replicas_ready, load.replicas
        if wanted and not ready:
            yield Condition("no-replica", "crit", load.model, "no replica is ready: requests wait or are refused")
        elif ready < wanted:
            yield Condition("replicas-missing", "warn", load.model, f"{ready} of {wanted} replicas ready")

    def _queue(self, load: ModelLoad, now_ns: int) -> Iterator[Condition]:
        self._waiting.append((now_ns, load.waiting))
        while self._waiting[0][0] < now_ns - QUEUE_HISTORY_NS:
            self._waiting.popleft()
        before = self._waiting[0][1]
        if load.waiting >= QUEUE_FLOOR and load.waiting > 1.5 * before:
            text = f"queue grew from {before} to {load.waiting} in 10 s, the oldest waits {load.oldest_wait_s:.1f} s"
            yield Condition("queue-growing", "warn", load.model, text)
        if load.refused_per_s > 0:
            yield Condition("refusing", "warn", load.model, f"refuses {load.refused_per_s:.1f} requests/s")

    def _hits(self, load: ModelLoad) -> Iterator[Condition]:
        now = load.prefix_hit_ratio
        if now < 0:
            return
        usual = self._usual_hits
        self._usual_hits = now if usual < 0 else usual + HIT_MEMORY * (now - usual)
        if usual > HIT_FLOOR and now < usual / 2:
            text = f"prefix hits {now:.0%}, usually {usual:.0%}"
            cause = "prompts no longer share a beginning, or pages are evicted early"
            yield Condition("prefix-hits-dropped", "warn", load.model, text, cause=cause)


def _against(load: ModelLoad, targets: Targets) -> Iterator[Condition]:
    """What is worse than asked for, and where most of it comes from."""
    if targets.ttft_s and load.ttft_p95_s > targets.ttft_s:
        text = f"first token after {load.ttft_p95_s:.1f} s (p95), asked for are {targets.ttft_s:.1f}"
        queued = load.queue_p95_s > load.ttft_p95_s / 2
        cause = f"{load.queue_p95_s:.1f} s of it in the queue" if queued else "most of it computing prompts"
        yield Condition("ttft-high", "warn", load.model, text, cause=cause)
    if targets.inter_token_s and load.itl_p95_s > targets.inter_token_s:
        text = f"{1000 * load.itl_p95_s:.0f} ms between tokens (p95), asked for are {1000 * targets.inter_token_s:.0f}"
        cause = f"steps take {1000 * load.step_p95_s:.0f} ms (p95) with {load.running} running"
        yield Condition("itl-high", "warn", load.model, text, cause=cause)
    if targets.queue_wait_s and load.oldest_wait_s > targets.queue_wait_s:
        text = f"a request waits {load.oldest_wait_s:.0f} s for a slot, {load.waiting} wait"
        cause = f"{load.running} run on {load.replicas_ready} replicas"
        yield Condition("queue-slow", "warn", load.model, text, cause=cause)


def pace_conditions(model: str, lines: Sequence[StepLine], now_ns: int) -> Iterator[Condition]:
    """Whether steps run longer than the model of them, which learns from every step, says: then it is not the work
    that is more, but the processor that is less."""
    recent = [line for line in lines if line.at_ns > now_ns - PACE_NS and line.predicted_ns > 0]
    if len(recent) < PACE_STEPS:
        return
    ran, predicted = sum(line.ran_ns for line in recent), sum(line.predicted_ns for line in recent)
    if ran > PACE_SLOW * predicted:
        text = f"steps take {ran / predicted:.1f} times as long as they did with the same work"
        yield Condition("steps-slow", "warn", model, text, cause="the processor is shared, stolen or throttled")
