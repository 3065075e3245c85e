"""Prefill in one replica, decode in another. The rules, and the hand-over.

    queue ──► prefill replica: all of the prompt but its last token ──hand over──► decode replica: that token, and on

Both map one arena, so what the one has computed the other can read: nothing is copied, and what changes hands is a
block table. Full blocks are named as soon as they are computed, so they are found by other requests, in either pool,
while the rest of the prompt is still being computed. The last token is left to the decode replica, whose row for it
draws the first one: prefill replicas make KV and draw nothing, and no drawn token has to be brought to the other side.

- A request is admitted only where a decode slot is there for it in the end: those who are being prefilled count
  as if they had theirs already. So whoever is handed over never waits.
- What has little left to compute (`Limits.straight`; most of it was found) goes straight to a decode replica, as does
  a request for log probabilities of its prompt. So does everything while no prefill replica is there.
- Where no decode replica is there, a prefill replica decodes what it has, rather than let it wait.

The split is DistServe's (https://arxiv.org/abs/2401.09670); going straight is what NVIDIA Dynamo calls conditional
disaggregation.
"""

from __future__ import annotations

from scheduler.core.replica import Flight, Replica
from scheduler.core.request import Request, Standing
from scheduler.core.state import State
from scheduler.core.submit import limit_of


def has_pools(state: State) -> bool:
    """Whether some replicas prefill for the others."""
    return state.limits.first_prefill < state.limits.replicas


def is_prefill(state: State, replica: Replica) -> bool:
    """Whether it is one of those that prefill for others."""
    return replica.number >= state.limits.first_prefill


def candidates(state: State, request: Request) -> list[Replica]:
    """Where a request may go now; with pools, its side of them. None while there is no slot to decode in."""
    up = [replica for replica in state.replicas.values() if replica.serving]
    if not has_pools(state):
        return up
    decoders = _decoders(state)
    prefillers = [replica for replica in up if is_prefill(state, replica)]
    if not decoders:
        return prefillers
    if spare_slots(state, decoders) <= 0:
        return []
    return prefillers if prefillers and _is_long(state, request) else decoders


def sides(state: State, request: Request) -> list[list[Replica]]:
    """Where a request is computed, one place after the other: one of each."""
    if request.standing is Standing.ON_TRIAL:
        dock = state.replicas.get(state.suspects.trial.dock) if state.suspects.trial is not None else None
        return [[dock]] if dock is not None and dock.placeable else []
    first = candidates(state, request)
    if has_pools(state) and first and is_prefill(state, first[0]):
        return [first, _decoders(state)]
    return [first]


def hands_over(state: State, replica: Replica, request: Request) -> bool:
    """Whether a request that enters this replica leaves it again for another that decodes."""
    return (
        is_prefill(state, replica)
        and request.standing is Standing.CLEAR
        and _is_long(state, request)
        and bool(_decoders(state))
    )


def spare_slots(state: State, decoders: list[Replica]) -> int:
    """Free slots for decoding, less those that are meant for requests that are being prefilled."""
    promised = sum(len(replica.handing) for replica in state.replicas.values())
    return sum(replica.openings for replica in decoders) - promised


def hand_over(state: State, replica: Replica, flight: Flight) -> None:
    """A step of a prefill replica is complete: prompts that are computed go on where they are decoded."""
    due = [slot for slot in flight.slots.tolist() if slot in replica.handing]
    for slot in due:
        if replica.computed[slot] < replica.prefill_end[slot]:
            continue
        target = min(
            (other for other in _decoders(state) if other.openings and _ready_for(other, replica.requests[slot])),
            key=lambda other: other.running / other.slot_cap,
            default=None,
        )
        if target is None:
            replica.keep(slot)
            continue
        computed = int(replica.computed[slot])
        request = state.ledger.move(replica, slot)
        generations = [state.pool.generation[page] for page in request.table]
        limit = limit_of(state, request)
        target.open(request, state.home_number(request.home), limit, generations, computed=computed)
        state.note(request.id, "admitted", target.number, replica=target.number)


def _ready_for(replica: Replica, request: Request | None) -> bool:
    return request is None or not request.adapter or replica.adapters.has(request.adapter)


def _decoders(state: State) -> list[Replica]:
    return [replica for replica in state.replicas.values() if replica.serving and not is_prefill(state, replica)]


def _is_long(state: State, request: Request) -> bool:
    left = request.known - len(request.entries) * request.page_tokens
    return left > state.limits.straight and not request.wants_prompt_logprobs
