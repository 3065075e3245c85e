"""What gives way when pages run out: references of those who wait, then the least important request that runs; and
batch, whenever anything else waits.

Preemption is by recompute. The best of those who run never gives way to another, so somebody always gets on; one
alone fits by itself, or was refused. Two schedulers on one arena may each hold what the other lacks: then a lone
request that starves for long starts over, and they take turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np

from scheduler.core.replica import Replica
from scheduler.core.request import Request
from scheduler.core.state import OTHERS, State

LONE_PATIENCE_NS: Final = 2_000_000_000
RESERVE_STEP: Final = 0.2


def relieve(state: State) -> bool:
    """Free pages if rows starve and nothing is about to come. True where something was given up."""
    for replica in state.replicas.values():
        if replica.crowded and _make_room_on(state, replica):
            return True
    if not state.starved:
        state.starved_since = 0
        return False
    if not state.starved_since:
        state.starved_since = state.now
    if not state.pool.exhausted:
        return False
    if not _give_way(state):
        return False
    for replica in state.replicas.values():
        replica.starved = 0  # until the next plan says so again
    return True


def _make_room_on(state: State, replica: Replica) -> bool:
    """The least important of those in a full device memory goes back to the queue; one alone fits by itself."""
    replica.crowded = 0  # until the next plan says so again
    if replica.running < 2:
        return False
    slots = np.flatnonzero(replica.active)
    victim = replica.requests[int(slots[np.argmax(replica.order[slots])])]
    assert victim is not None
    preempt(state, victim, "device memory")
    state.reserve = min(1.0, state.reserve + RESERVE_STEP)
    return True


def _give_way(state: State) -> bool:
    if state.holders:
        for request in tuple(state.holders.values()):
            state.ledger.forsake(request)
        state.holders.clear()
        return True
    victim = _victim(state)
    if victim is None:
        return False
    preempt(state, victim, "pages")
    state.reserve = min(1.0, state.reserve + RESERVE_STEP)
    state.starved_since = 0
    return True


def preempt(state: State, request: Request, why: str) -> None:
    """Back to the queue, to be computed again later; its place there is that of its arrival."""
    state.ledger.retire(state.replicas[request.replica], request.slot)
    request.preemptions += 1
    request.looked_up = 0
    state.tally.preemptions += 1
    state.queue.push(request)
    request.book.left(state.now, preempted=True)
    state.note(request.id, "preempted", request.generated, detail=why, others=tuple(_first_in_line(state)))


def make_way(state: State) -> bool:
    """Batch gives up slots for those who wait in front of it, as far as none come free anyhow. Whether it did."""
    wanted = state.queue.urgent - sum(len(replica.retired) for replica in state.replicas.values())
    victims = sorted(_batch(state), key=lambda request: request.key)[::-1][: max(0, wanted)]
    for request in victims:
        preempt(state, request, "batch")
    return bool(victims)


def make_room(state: State) -> bool:
    """The youngest batch request that runs gives up its pages. Whether there was one."""
    if not (victims := _batch(state)):
        return False
    preempt(state, max(victims, key=lambda request: request.key), "batch")
    return True


def _batch(state: State) -> list[Request]:
    """Batch requests that run."""
    running = ((replica, slot) for replica in state.replicas.values() for slot in replica.batch)
    return [request for replica, slot in running if (request := replica.requests[slot]) is not None]


def _first_in_line(state: State) -> Iterator[int]:
    """The most important of those who run: for them it gave way."""
    running = [request for replica in state.replicas.values() for request in replica.requests if request is not None]
    return islice((request.id for request in sorted(running, key=lambda request: request.key)), OTHERS)


def _victim(state: State) -> Request | None:
    """The least important and youngest of those who run."""
    worst: tuple[int, Replica, int] | None = None
    for replica in state.replicas.values():
        if replica.running:
            slots = np.flatnonzero(replica.active)
            slot = int(slots[np.argmax(replica.order[slots])])
            if worst is None or replica.order[slot] > worst[0]:
                worst = (int(replica.order[slot]), replica, slot)
    if worst is None:
        return None
    request = worst[1].requests[worst[2]]
    assert request is not None
    if state.running == 1:
        patience = LONE_PATIENCE_NS + request.id % 1000 * 1_000_000  # not both at once
        if state.now - state.starved_since < patience:
            return None
    return request
