"""What a failed step, a lost replica, a lost page or a hung worker means for the requests concerned.

A request whose replica fails goes back to the front of the queue with its tokens and its named blocks: only what was
not named is computed again. One that was in the batch of two failures and drew no token between them is quarantined.
"""

from __future__ import annotations

from bus.messages.steps import StepFailed
from bus.packed import unpack_u32
from scheduler.core.events import KillReplica, ResetReplica, SendPlan
from scheduler.core.plan import plan_barrier
from scheduler.core.replica import Replica
from scheduler.core.request import Phase, Request
from scheduler.core.state import QUARANTINE_REMEMBERED, State
from scheduler.core.submit import finish

MAX_STRIKES = 2
HANG_FACTOR = 10.0


def step_broken(state: State, replica: Replica, failed: StepFailed) -> None:
    """A step raised. The worker has closed all slots; plans that it still has are for slots it does not have."""
    flight = next((flight for flight in replica.flights if flight.step == failed.step), None)
    if flight is None:
        return  # of before a reset
    batch = flight.slots.tolist()
    named = [slot for slot in unpack_u32(failed.slots).tolist() if slot in batch]
    _vacate(state, replica, named or batch, failed.error)
    state.out.append(ResetReplica(replica.number, replica.next_step))
    if replica.limbo:
        # Plans behind the broken one may still be executed, and write. A step of nothing, after the reset, says by its
        # result that they are through.
        state.out.append(SendPlan(replica.number, plan_barrier(replica, state.now)))


def replica_lost(state: State, replica: Replica, why: str) -> None:
    """No answer will come. Whoever was in a step in flight is under suspicion."""
    batch: set[int] = set()
    for flight in replica.flights:
        batch.update(flight.slots.tolist())
    _vacate(state, replica, list(batch), why)
    replica.ready = False


def replica_leaves(state: State, replica: Replica) -> None:
    """Its processes are about to end, as they were told to. When nothing is under way any more its requests leave it;
    nobody is to blame. The reset tells the workers that they may go."""
    if replica.flights:
        return
    _vacate(state, replica, [], "its worker is restarted")
    replica_fenced(state, replica)
    state.out.append(ResetReplica(replica.number, replica.next_step))


def replica_fenced(state: State, replica: Replica) -> None:
    """Nobody writes on behalf of the lost replica any more."""
    due, replica.limbo = replica.limbo, []
    state.ledger.give_back(due)


def replica_hangs(state: State, replica: Replica) -> None:
    """A step that takes much longer than it should: the processes are to be ended. Their end is told as a loss."""
    if not replica.flights or replica.killed:
        return
    flight = replica.flights[0]
    took_ns = state.now - max(flight.sent_ns, replica.completed_ns)
    allowed_ns = max(state.limits.hang_ns, HANG_FACTOR * flight.predicted_ns)
    if took_ns > allowed_ns:
        replica.killed = True
        why = f"step {flight.step} runs for {took_ns / 1e9:.1f} s, {allowed_ns / 1e9:.1f} s were allowed"
        state.out.append(KillReplica(replica.number, why))


def pages_lost(state: State, lost: set[int]) -> None:
    """Handles that are not valid any more: whoever uses such a page computes again."""
    if not lost:
        return
    for replica in state.replicas.values():
        for slot, running in enumerate(replica.requests):
            if running is not None and not lost.isdisjoint(running.table):
                state.ledger.retire(replica, slot)
                _requeue(state, running, "its pages were lost")
    for request in tuple(state.holders.values()):
        if any(entry.page in lost for entry in request.entries):
            state.ledger.forsake(request)
            del state.holders[request.id]
    state.ledger.lose(lost, list(state.replicas.values()))


def _vacate(state: State, replica: Replica, suspects: list[int], why: str) -> None:
    """Everyone leaves. Named blocks stay referenced; what was not named waits until the replica cannot write."""
    guilty: list[Request] = []
    for slot, request in enumerate(replica.requests):
        if request is None:
            continue
        state.ledger.retire(replica, slot, keep_entries=True)
        if slot in suspects:
            request.strikes = request.strikes + 1 if request.struck_at == request.generated else 1
            request.struck_at = request.generated
            if request.strikes >= MAX_STRIKES:
                guilty.append(request)
        _requeue(state, request, why)
    replica.fail()
    for request in guilty:
        message = f"it was in two steps that failed: {why}"
        state.quarantined[request.id] = message
        if len(state.quarantined) > QUARANTINE_REMEMBERED:
            state.quarantined.popitem(last=False)
        finish(state, request, "error", message)


def _requeue(state: State, request: Request, why: str) -> None:
    request.front = True
    request.looked_up = False
    request.phase = Phase.WAITING
    state.queue.push(request)
    if request.entries:
        state.holders[request.id] = request
    state.note(request.id, "resumed", request.generated, detail=why)
