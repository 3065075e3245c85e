"""Suspects in custody: who is detained, when the next trial begins and where, and what becomes of the cause.

What follows from a failure is decided in `suspects`; here requests are moved.
"""

from __future__ import annotations

from typing import Final

from scheduler.core.replica import Replica
from scheduler.core.request import Phase, Request, Standing
from scheduler.core.state import QUARANTINE_REMEMBERED, State
from scheduler.core.submit import finish
from scheduler.core.suspects import Trial, Unproven

DOCK_PATIENCE_NS: Final = 10_000_000_000  # how long a trial waits for its replica to come back


def hold_trials(state: State) -> None:
    """Pronounce what is proven, and let the next group be tried. Called after every event; mostly nobody is there."""
    suspects = state.suspects
    if not suspects.any:
        return
    _pronounce(state)
    if suspects.trial is None and (group := suspects.next_group()):
        suspects.trial = Trial(suspects.dock, set(group), state.now)
    if (trial := suspects.trial) is None:
        return
    dock = _dock(state, trial)
    for request in sorted(trial.members, key=lambda member: member.key):
        if dock is not None and request.standing is Standing.DETAINED:
            request.standing = Standing.ON_TRIAL
            state.queue.unpark(request)
            state.blocked_version = -1
        elif dock is None and request.standing is Standing.ON_TRIAL and request.phase is not Phase.RUNNING:
            detain(state, request)


def detain(state: State, request: Request) -> None:
    """It stays in the queue and out of the others' way."""
    if request.phase is Phase.WAITING:
        state.queue.park(request)
    request.standing = Standing.DETAINED
    state.note_held(request, "suspect")


def failed_alone(state: State, replica: Replica, request: Request, why: str) -> None:
    """It was the only one in a step that failed, and not for the first time: it, or the replica, is the cause."""
    if request.alone_on not in (-1, replica.number):
        condemn(state, request, why)  # two replicas agree
        return
    request.alone_on = replica.number
    detain(state, request)
    state.suspects.unproven[request] = Unproven(replica.number, why)
    if _another(state, replica.number) is None:
        state.budget(replica.number).set_aside()
    _pronounce(state)


def condemn(state: State, request: Request, why: str) -> None:
    """It is the cause: it ends with an error of its own, and its id is not taken again."""
    message = f"the request took its worker down {request.strikes} times: {why}"
    state.quarantined[request.id] = message
    if len(state.quarantined) > QUARANTINE_REMEMBERED:
        state.quarantined.popitem(last=False)
    finish(state, request, "error", message)


def _pronounce(state: State) -> None:
    suspects = state.suspects
    for request, (replica, why) in list(suspects.unproven.items()):
        if state.budget(replica).worked_ns > request.struck_ns:
            condemn(state, request, why)
    if len(suspects.unproven) < len(state.requests):
        return  # somebody else is there, who may show that the replica works
    for request, (replica, why) in list(suspects.unproven.items()):
        if (other := _another(state, replica)) is not None:
            del suspects.unproven[request]
            suspects.groups.append([request])
            suspects.dock = other.number
        else:
            condemn(state, request, why)


def _dock(state: State, trial: Trial) -> Replica | None:
    """The replica of the trial, if it is there: that of before, or another where that does not come back."""
    dock = state.replicas.get(trial.dock)
    if dock is not None and dock.serving:
        trial.ready_ns = state.now
        return dock
    if dock is not None and not dock.draining and not dock.barred and state.now - trial.ready_ns < DOCK_PATIENCE_NS:
        return None
    if (other := _another(state, trial.dock)) is None:
        return None
    trial.dock = state.suspects.dock = other.number
    trial.ready_ns = state.now
    return other


def _another(state: State, number: int) -> Replica | None:
    """The least busy replica that could be the dock instead of this one."""
    others = [replica for replica in state.replicas.values() if replica.number != number and replica.serving]
    return min(others, key=lambda replica: replica.running, default=None)
