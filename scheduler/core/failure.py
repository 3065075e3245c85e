"""What a failed step, a lost replica, a lost page or a hung worker means for the requests concerned.

A request whose replica fails goes back to the front of the queue with its tokens and its named blocks: only what was
not named is computed again. Who is suspected of having caused it is kept in `suspects`, what the replica may still
afford in `budget`.
"""

from __future__ import annotations

from typing import Final

from bus.messages.steps import StepFailed
from bus.packed import unpack_u32
from scheduler.core.budget import Severity
from scheduler.core.events import KillReplica, ReplicaFailed, ResetReplica, SendPlan
from scheduler.core.plan import plan_barrier
from scheduler.core.replica import Replica
from scheduler.core.request import Phase, Request, Standing
from scheduler.core.state import State
from scheduler.core.submit import finish
from scheduler.core.suspects import TRIED_AFTER, strike
from scheduler.core.trials import condemn, detain, failed_alone

LOST_PATIENCE_NS: Final = 10_000_000_000  # a process that lives, and has not come back to us after this, is stuck


def step_broken(state: State, replica: Replica, failed: StepFailed) -> None:
    """A step raised. The worker has closed all slots; plans that it still has are for slots it does not have."""
    flight = next((flight for flight in replica.flights if flight.step == failed.step), None)
    if flight is None:
        return  # of before a reset
    involved, budget = flight.involved, state.budget(replica.number)
    named = involved.intersection(unpack_u32(failed.slots).tolist())
    if failed.out_of_memory and replica.shrink(flight.tokens):
        severity = Severity.TRANSIENT  # as long as a smaller step helps; nobody is to blame for that
        _vacate(state, replica, set(), failed.error)
    else:
        severity = budget.spend(Severity.SEVERE if failed.out_of_memory else Severity.TRANSIENT, state.now)
        _vacate(state, replica, named or involved, failed.error, named=bool(named))
    if severity is not Severity.TRANSIENT:
        _end(state, replica, severity, failed.error)
        return
    state.out.append(ResetReplica(replica.number, replica.next_step))
    if replica.limbo:
        # Plans behind the broken one may still be executed, and write. A step of nothing, after the reset, says by its
        # result that they are through.
        state.out.append(SendPlan(replica.number, plan_barrier(replica)))


def replica_lost(state: State, replica: Replica, why: str) -> None:
    """No answer will come. Whoever was in a step in flight is under suspicion."""
    involved: set[int] = set()
    for flight in replica.flights:
        involved |= flight.involved
    _vacate(state, replica, involved, why)
    replica.ready = replica.barred = False
    replica.lost_ns = state.now
    if involved and state.budget(replica.number).spend(Severity.SEVERE, state.now) is Severity.FATAL:
        _take_out(state, replica, why)


def replica_leaves(state: State, replica: Replica) -> None:
    """Its processes are about to end, as they were told to. When nothing is under way any more its requests leave it;
    nobody is to blame. The reset tells the workers that they may go."""
    if replica.flights:
        return
    _vacate(state, replica, set(), "its worker is restarted")
    replica_fenced(state, replica)
    state.out.append(ResetReplica(replica.number, replica.next_step))


def replica_fenced(state: State, replica: Replica) -> None:
    """Nobody writes on behalf of the lost replica any more."""
    replica.lost_ns = 0
    due, replica.limbo = replica.limbo, []
    state.ledger.give_back(due)


def look_after(state: State, replica: Replica, elapsed_ns: int) -> None:
    """Processes that hang, and processes that are lost and live, are to be ended. Their end is told as a loss."""
    flight = replica.flights[0] if replica.flights else None
    replica.watch.look(flight.step if flight is not None else -1, elapsed_ns)
    if replica.killed:
        return
    if replica.ready and flight is not None:
        if why := replica.watch.hangs(replica.cost, flight.predicted_ns, state.limits.hang_ns):
            _kill(state, replica, why)
    elif replica.lost_ns and state.now - replica.lost_ns > LOST_PATIENCE_NS:
        _kill(state, replica, "lost, and its processes live and do not come back")


def pages_lost(state: State, lost: set[int]) -> None:
    """Handles that are not valid any more: whoever uses such a page computes again."""
    if not lost:
        return
    for replica in state.replicas.values():
        for slot, running in enumerate(replica.requests):
            if running is not None and not lost.isdisjoint(running.table + running.behind.folds):
                state.ledger.retire(replica, slot)
                _requeue(state, running, "its pages were lost")
    for request in tuple(state.holders.values()):
        if any(entry.page in lost for entry in request.entries):
            state.ledger.forsake(request)
            del state.holders[request.id]
    state.ledger.lose(lost, list(state.replicas.values()))


def _vacate(state: State, replica: Replica, involved: set[int], why: str, *, named: bool = False) -> None:
    """Everyone leaves. Named blocks stay referenced; what was not named waits until the replica cannot write.

    Args:
        involved: slots that can be the cause, or are it where they are `named`.
    """
    batch: list[Request] = []
    for slot, request in enumerate(replica.requests):
        if request is None:
            continue
        if slot in involved:
            strike(request, int(replica.computed[slot]), state.now)
            batch.append(request)
        state.ledger.retire(replica, slot, keep_entries=True)
        _requeue(state, request, why)
    replica.fail()
    suspects = state.suspects
    if named:
        for request in batch:
            if request.strikes >= TRIED_AFTER:
                condemn(state, request, why)
        return
    accused = suspects.accuse(batch)
    if accused.detained:
        suspects.dock = replica.number
    for request in accused.detained:
        detain(state, request)
    if accused.cause is not None:
        failed_alone(state, replica, accused.cause, why)


def _requeue(state: State, request: Request, why: str) -> None:
    request.front = True
    request.looked_up = 0
    request.phase = Phase.WAITING
    state.queue.push(request)
    if request.entries:
        state.holders[request.id] = request
    request.book.left(state.now, preempted=False)
    state.note(request.id, "resumed", request.generated, detail=why)
    if request.standing is Standing.DETAINED:
        detain(state, request)


def _end(state: State, replica: Replica, severity: Severity, why: str) -> None:
    """Its process lives and is not to be trusted any more: everyone has left it."""
    replica.ready = False
    replica.lost_ns = state.now
    _kill(state, replica, f"too many failed steps, the last one: {why}")
    if severity is Severity.FATAL:
        _take_out(state, replica, why)


def _kill(state: State, replica: Replica, why: str) -> None:
    replica.killed = True
    state.out.append(KillReplica(replica.number, why))


def _take_out(state: State, replica: Replica, why: str) -> None:
    """It fails whatever it is given. Its requests go elsewhere; where there is no elsewhere, they end."""
    for_ns = state.budget(replica.number).bar(state.now)
    state.out.append(ReplicaFailed(replica.number, why, for_ns))
    state.suspects.acquit(replica.number)
    if given_up := state.given_up:
        for request in list(state.requests.values()):
            finish(state, request, "error", f"{given_up}. The last failure: {why}")
