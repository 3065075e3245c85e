"""Queues, limits, replicas and hot prefixes as an onlooker sees them. A look has a bounded cost."""

from __future__ import annotations

from itertools import islice
from typing import Final

from bus.messages.vitals import HotPrefix, Knob, QueueClass, ReplicaView, SchedulerView
from scheduler.core.replica import Replica
from scheduler.core.request import Phase
from scheduler.core.state import Limits, State

MOST_REQUESTS: Final = 2_000
MOST_CLASSES: Final = 16
PREFIXES: Final = 16


def scheduler_view(state: State, name: str, configured: Limits, now: int) -> SchedulerView:
    """All of it. `configured` is what limits were when the process began."""
    return SchedulerView(
        name,
        state.limits.model,
        state.geometry.page_tokens if state.geometry else 0,
        queue_classes(state, now),
        _knobs(state, configured),
        tuple(_replica(replica) for _, replica in sorted(state.replicas.items())),
        tuple(_prefixes(state, now)),
    )


def queue_classes(state: State, now: int) -> tuple[QueueClass, ...]:
    """Requests by priority, the first to be served first; of very many, those that came first."""
    waiting: dict[int, int] = {}
    held: dict[int, int] = {}
    running: dict[int, int] = {}
    oldest: dict[int, int] = {}
    for request in islice(state.requests.values(), MOST_REQUESTS):
        priority = request.submit.priority
        if request.phase is Phase.RUNNING:
            running[priority] = running.get(priority, 0) + 1
            continue
        waiting[priority] = waiting.get(priority, 0) + 1
        held[priority] = held.get(priority, 0) + (request.phase is Phase.PARKED)
        oldest[priority] = max(oldest.get(priority, 0), now - request.arrival_ns)
    classes = sorted(waiting.keys() | running.keys())[:MOST_CLASSES]  # lower runs earlier
    return tuple(
        QueueClass(each, waiting.get(each, 0), held.get(each, 0), running.get(each, 0), oldest.get(each, 0))
        for each in classes
    )


def _knobs(state: State, configured: Limits) -> tuple[Knob, ...]:
    limits, replicas = state.limits, state.replicas.values()
    budget = max((replica.step_tokens for replica in replicas), default=0)
    return (
        Knob("slots", limits.slots, "requests", configured.slots),
        Knob("step_tokens", min((replica.step_limit for replica in replicas), default=0), "tokens", budget),
        Knob("inter_token_target_ms", limits.inter_token_target_ns / 1e6, "ms", configured.inter_token_target_ns / 1e6),
        Knob("queue_requests", limits.queue_requests, "requests", configured.queue_requests),
        Knob("queue_tokens", limits.queue_tokens, "tokens", configured.queue_tokens),
    )


def _replica(replica: Replica) -> ReplicaView:
    base_ns, token_ns, _ = replica.cost.rates()
    return ReplicaView(
        replica.number, replica.ready, replica.draining, replica.barred, replica.running, replica.slots,
        replica.in_flight, replica.step_limit, replica.backlog, base_ns, token_ns,
    )  # fmt: skip


def _prefixes(state: State, now: int) -> list[HotPrefix]:
    found = []
    for digest, hot, hits in state.hot.top(PREFIXES, now):
        entry = state.index.get(digest)
        refs = entry.refs if entry is not None else 0
        found.append(HotPrefix(digest, hot.tokens, refs, hits, hot.since_ns, hot.last_ns))
    return found
