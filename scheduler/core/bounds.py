"""Why a step has no more in it. Decides nothing about it.

    trial, kv_pages       somebody who runs could not be in the step, or only apart from others
    token_budget, memory,
    inter_token_target    a prompt was cut, or rows had to sit out
    slots, kv_pages,
    token_budget, prefix  somebody waits, and why
    demand                nothing else was wanted

The first that holds is the bound. What is seen only when the result comes ("pipeline") is `steplog`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus.messages.vitals import StepBound
from scheduler.core.plan import Chunk, Cut
from scheduler.core.replica import Replica
from scheduler.core.state import State
from scheduler.core.steplog import PlanRecord

CHUNKS_SHOWN: Final = 8


def record_of(
    state: State, replica: Replica, chunks: Sequence[Chunk], starved: int, cut: Cut | None, plan_ns: int
) -> PlanRecord:
    """Of the step that was just planned, the last in flight."""
    shown = tuple((int(replica.request_id[chunk.slot]), chunk.length) for chunk in chunks[:CHUNKS_SHOWN])
    flight = replica.flights[-1]
    rows = len(flight.slots)
    return PlanRecord(
        state.now, plan_ns, round(flight.predicted_ns), replica.in_flight > 1, rows, rows - len(chunks),
        sum(chunk.length for chunk in chunks), len(chunks), shown, len(state.queue), starved,
        bound(state, replica, starved, cut),
    )  # fmt: skip


def bound(state: State, replica: Replica, starved: int, cut: Cut | None) -> StepBound:
    """What keeps the step that was just planned from having more in it.

    Args:
        starved: pages that its rows wanted and did not get.
        cut: what cut its prompts or left rows out, if anything did.
    """
    if replica.tried:
        return "trial"
    if starved or replica.sat_out:
        return "kv_pages"
    if cut is not None:
        return "memory" if cut == "token_budget" and replica.step_limit < replica.step_tokens else cut
    return waits_for(state) if len(state.queue) else "demand"


def waits_for(state: State) -> StepBound:
    """What the first of those who wait waits for."""
    if state.pool.reasserting or not state.pool.capacity:
        return "kv_pages"
    if not state.queue.first(1):
        return "prefix"  # all are parked
    placeable = [replica for replica in state.replicas.values() if replica.placeable]
    if not placeable:
        return "slots"
    if state.blocked_version == state.pool.version:
        return "kv_pages"
    if all(replica.backlog >= replica.step_tokens for replica in placeable):
        return "token_budget"  # prompts that are in slots already fill the next step
    return "slots"  # of the replicas that it may go to
