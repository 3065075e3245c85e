"""What keeps replicas from answering, and work in hand from getting on. Pure: said from what is known, nobody is asked.

Three things are told apart. A process *lives* where it answers at all. A model is *ready* where a replica could take a
request now. Work *progresses* where there is none, or steps come to their end as they should: the cost model says how
long a step may take, so a long prefill is no standstill, and a process that is stopped in the middle of a step is one
after a second and a half, long before it is killed for it (`watch`).
"""

from __future__ import annotations

from typing import Final

from scheduler.core.replica import Replica
from scheduler.core.state import State

IDLE_NS: Final = 1_500_000_000  # a step whose processes use no CPU for so long stands still
LATE: Final = 4.0  # times the predicted time of a step ...
LATE_NS: Final = 3_000_000_000  # ... and at least so much
STARVED_NS: Final = 3_000_000_000  # all who run wait for pages for so long


def hung(replica: Replica) -> str:
    """Why a replica that is up would not answer now; empty where it would."""
    if replica.frozen:
        return replica.frozen
    if replica.watch.idle_ns > IDLE_NS:
        return f"the processes of replica {replica.number} use no CPU in the middle of a step"
    return ""


def trouble(state: State) -> str:
    """Why not all replicas take requests; empty where all do. Without numbers that change all the time."""
    if state.pool.capacity == 0 and state.replicas:
        return "kv@host has given no pages yet"
    reasons = [reason for number in range(state.limits.replicas) if (reason := _absent(state, number))]
    return "; ".join(reasons)


def standstill(state: State) -> str:
    """What the work in hand waits for that does not come; empty where it gets on, or there is none."""
    if not state.requests:
        return ""
    for replica in state.replicas.values():
        if replica.running and (why := hung(replica)):
            return why
        flight = replica.flights[0] if replica.flights else None
        allowed_ns = max(LATE_NS, LATE * flight.predicted_ns) if flight is not None else 0.0
        if flight is not None and replica.cost.trusted and replica.watch.waited_ns > allowed_ns:
            return f"a step of replica {replica.number} runs far longer than such steps do"
    if not any(replica.serving for replica in state.replicas.values()) and not state.running:
        return f"no replica is there: {trouble(state)}"
    flying = any(replica.flights for replica in state.replicas.values())
    if state.starved_since and not flying and state.now - state.starved_since > STARVED_NS:
        return "those who run wait for pages, and none come" + ("" if state.pool.up else ": kv@host is not there")
    return ""


def _absent(state: State, number: int) -> str:
    replica = state.replicas.get(number)
    if replica is None:
        return f"replica {number} has not started yet"
    if replica.barred:
        return f"replica {number} is taken out for failing whatever it is given"
    if not replica.ready:
        return f"replica {number} is lost and not back yet"
    if replica.draining or replica.leaving:
        return f"replica {number} is being taken out"
    return hung(replica)
