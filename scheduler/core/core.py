"""The scheduler's state machine: an event and the time go in, actions come out.

    core = SchedulerCore(Limits(model="m"))
    actions = core.handle(Submitted(home, submit), now_ns)

Every event is followed by the same three moves: fill slots from the queue, plan steps for every replica that has fewer
than two in flight, tell kv what it should know. So no event has to know what else it makes possible.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop

import msgspec

from bus.messages.requests import Accepted, ModelFacts
from bus.messages.steps import StepFailed
from bus.packed import unpack_u32
from scheduler.core import events as e
from scheduler.core.admission import admit, expire, found, unpark
from scheduler.core.apply import BadResult
from scheduler.core.bounds import record_of
from scheduler.core.failure import look_after, pages_lost, replica_fenced, replica_leaves, replica_lost, step_broken
from scheduler.core.fetching import (
    adapter_added,
    adapter_dropped,
    adapter_read,
    forget_unlisted,
    look_after_adapters,
    tell_replicas,
    try_again,
)
from scheduler.core.pages import unpack_handles
from scheduler.core.plan import plan_barrier, plan_step
from scheduler.core.prefix import EntryState
from scheduler.core.pressure import relieve
from scheduler.core.replica import Replica
from scheduler.core.results import step_done
from scheduler.core.standing_still import hung, standstill, trouble
from scheduler.core.state import Geometry, Limits, State
from scheduler.core.steplog import StepRecords
from scheduler.core.submit import abort, drop, finish, late, submit
from scheduler.core.trials import hold_trials


class SchedulerCore:
    """Decides for one model. `state` is for those who look on; only `handle` changes it.

    Args:
        clock: nanoseconds; how long planning takes is measured by it. Nothing is decided by it.

    Attributes:
        steps: what became of them.
    """

    def __init__(self, limits: Limits, clock: Callable[[], int] = lambda: 0) -> None:
        self.state = State(limits)
        self.steps = StepRecords()
        self._clock = clock
        self.state.index.on_wake = lambda request: unpark(self.state, request)
        self._kv_capacity = 0
        self._early: list[e.Submitted] = []
        self._handlers: dict[type[e.Event], Callable[..., object]] = {
            e.Submitted: self._submitted,
            e.Aborted: self._aborted,
            e.Cancelled: self._cancelled,
            e.IngressJoined: lambda event: self.state.orphaned.pop(event.home, None),
            e.IngressLost: self._ingress_lost,
            e.ReplicaUp: self._replica_up,
            e.ReplicaLost: self._replica_lost,
            e.ReplicaFenced: lambda event: replica_fenced(self.state, self.state.replicas[event.replica]),
            e.ReplicaDrain: self._replica_drain,
            e.ReplicaFrozen: self._replica_frozen,
            e.ReplicaComputed: lambda event: self.state.replicas[event.replica].watch.cpu(event.cpu_ns),
            e.ReplicaLeaving: self._replica_leaving,
            e.StepDone: self._step_done,
            e.StepBroken: lambda event: step_broken(self.state, self.state.replicas[event.replica], event.failed),
            e.KvUp: self._kv_up,
            e.KvDown: self._kv_down,
            e.Reasserted: self._reasserted,
            e.Leased: self._leased,
            e.Sealed: self._sealed,
            e.Found: self._found,
            e.LookupExpired: lambda event: expire(self.state, event.lookup),
            e.Limited: self._limited,
            e.AdapterAdded: lambda event: adapter_added(self.state, event),
            e.AdapterDropped: lambda event: adapter_dropped(self.state, event),
            e.AdapterRead: lambda event: adapter_read(self.state, event),
            e.Tick: lambda _: self._tick(),
        }

    def handle(self, event: e.Event, now: int) -> list[e.Action]:
        """Take an event in, at `now` (CLOCK_MONOTONIC, ns)."""
        state = self.state
        state.now = now
        out: list[e.Action] = []
        state.out = out
        self._handlers[type(event)](event)
        self._advance()
        return out

    def drain(self, draining: bool) -> None:
        """Refuse new requests, or take them again."""
        self.state.draining = draining

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand that an ingress waits for. Whoever takes over what a lost one left submits it
        again, here or to our successor."""
        state = self.state
        homes = {request.home for request in state.requests.values()} | {early.home for early in self._early}
        return homes <= state.orphaned.keys()

    def facts(self, root: bytes, vocabulary: int) -> ModelFacts:
        """What ingresses should know. `root` is the digest chain's."""
        state = self.state
        ready = sum(1 for replica in state.replicas.values() if replica.serving and not hung(replica))
        known = state.geometry
        page_tokens, context_tokens = (known.page_tokens, state.context_tokens) if known else (0, 0)
        return ModelFacts(
            state.limits.model, root if known else b"", page_tokens, context_tokens, vocabulary,
            ready if state.pool.capacity else 0, state.limits.replicas, trouble(state), state.stuck, state.stuck_ns,
            state.adapters.facts(),
        )  # fmt: skip

    # --- moving on -------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        state = self.state
        hold_trials(state)
        look_after_adapters(state)
        admit(state)
        self._plan()
        while relieve(state):
            self._plan()
        tell_replicas(state)
        state.out += state.ledger.flush(state.starved)
        state.out += state.questions
        state.questions.clear()

    def _plan(self) -> None:
        state = self.state
        for replica in state.replicas.values():
            if replica.leaving:
                continue
            while replica.ready and replica.in_flight < replica.depth and replica.running:
                began = self._clock()
                plan, chunks, replica.starved, cut = plan_step(replica, state.pool, state.limits.inter_token_target_ns)
                if plan is None:
                    replica.sat_out = replica.starved + replica.crowded > 0
                    break
                replica.flights[-1].record = record_of(
                    state, replica, chunks, replica.starved, cut, self._clock() - began
                )
                replica.sat_out = False
                state.out.append(e.SendPlan(replica.number, plan))
                for chunk in chunks:
                    request = replica.requests[chunk.slot]
                    assert request is not None
                    request.book.chunk(chunk.length)
                    state.note(request.id, "chunk", chunk.length, plan.step, replica=replica.number)
            if replica.ready and replica.closing and not replica.running and not replica.flights:
                # No step will carry them, and a worker that drains waits until its slots are empty.
                state.out.append(e.SendPlan(replica.number, plan_barrier(replica)))

    # --- ingresses -------------------------------------------------------------------------------------------------

    def _submitted(self, event: e.Submitted) -> None:
        state, message = self.state, event.submit
        state.orphaned.pop(event.home, None)
        if state.geometry is not None:
            submit(state, event.home, message)
        elif not message.emitted and not message.root:
            state.refuse(event.home, message.request, "not_ready", "no replica of this model is ready yet", 2.0)
        elif len(self._early) >= state.limits.queue_requests + state.limits.slots * state.limits.replicas:
            state.refuse(event.home, message.request, "overloaded", "too many requests wait for the first replica", 5.0)
        else:
            # It knows a root or has tokens: it was promised an answer by an incarnation of us that is gone.
            if any(early.submit.request == message.request and late(early.submit, message) for early in self._early):
                return
            self._early = [early for early in self._early if early.submit.request != message.request]
            self._early.append(event)
            state.reply(event.home, Accepted(message.request, len(self._early) - 1))

    def _aborted(self, event: e.Aborted) -> None:
        self._early = [
            early
            for early in self._early
            if early.submit.request != event.abort.request or late(early.submit, event.abort)
        ]
        abort(self.state, event.abort)

    def _cancelled(self, event: e.Cancelled) -> None:
        if (request := self.state.requests.get(event.request)) is not None:
            finish(self.state, request, "abort", "cancelled by the operator")

    def _ingress_lost(self, event: e.IngressLost) -> None:
        self.state.orphaned[event.home] = self.state.now

    # --- replicas --------------------------------------------------------------------------------------------------

    def _replica_up(self, event: e.ReplicaUp) -> None:
        state = self.state
        state.settle(Geometry(event.context_tokens, event.page_tokens, event.dimensions))
        assert state.geometry is not None
        replica = Replica(
            event.replica, event.slots, event.step_tokens, state.geometry.context_tokens, state.geometry.page_tokens,
            event.cores, event.dimensions, min(event.drafts, state.limits.drafts), state.limits.adapters,
            event.device_pages, event.window, event.fold,
        )  # fmt: skip
        previous = state.replicas.get(event.replica)
        if previous is not None:
            if previous.ready:
                replica_lost(state, previous, "it started over")
            replica_fenced(state, previous)
            replica.next_step, replica.completed_step = previous.next_step, previous.next_step - 1
            replica.cost, replica.draining = previous.cost, previous.draining
            replica.speculation.inherit(previous.speculation)
        state.limit(replica)
        replica.barred = state.budget(event.replica).barred_until_ns > state.now
        replica.ready = not replica.barred
        state.replicas[event.replica] = replica
        state.out.append(e.ResetReplica(event.replica, replica.next_step))
        state.blocked_version = -1
        try_again(state)
        early, self._early = self._early, []
        for submitted in early:
            submit(state, submitted.home, submitted.submit)

    def _replica_lost(self, event: e.ReplicaLost) -> None:
        replica = self.state.replicas.get(event.replica)
        if replica is not None and (replica.ready or replica.barred):
            replica_lost(self.state, replica, event.why)

    def _replica_drain(self, event: e.ReplicaDrain) -> None:
        if (replica := self.state.replicas.get(event.replica)) is not None:
            replica.draining = event.draining

    def _replica_frozen(self, event: e.ReplicaFrozen) -> None:
        if (replica := self.state.replicas.get(event.replica)) is not None:
            replica.frozen = event.why
            self.state.blocked_version = -1

    def _replica_leaving(self, event: e.ReplicaLeaving) -> None:
        replica = self.state.replicas.get(event.replica)
        if replica is not None and replica.ready and not replica.leaving:
            replica.leaving = True
            replica_leaves(self.state, replica)

    def _step_done(self, event: e.StepDone) -> None:
        replica, began = self.state.replicas[event.replica], self._clock()
        flight = replica.flights[0] if replica.flights else None
        try:
            step_done(self.state, replica, event.result)
        except BadResult as bad:
            self._fail_step(replica, event.result.step, str(bad))
        else:
            if flight is not None and flight.step == event.result.step:
                took_ns = self._clock() - began
                self.steps.done(replica.number, flight.record, event.result, self.state.now, took_ns)
        if replica.leaving:
            replica_leaves(self.state, replica)

    def _fail_step(self, replica: Replica, step: int, why: str) -> None:
        step_broken(self.state, replica, StepFailed(step, why))

    # --- kv --------------------------------------------------------------------------------------------------------

    def _kv_up(self, event: e.KvUp) -> None:
        state = self.state
        first, self._kv_capacity = not self._kv_capacity, event.capacity
        if first:
            state.pool.open(event.capacity)
            return
        # Even a list of nothing says something: what kv pinned in answers that never arrived is not wanted.
        state.pool.reasserting = True
        state.out.append(e.ReassertPages(*state.ledger.packed_holdings(list(state.replicas.values()))))

    def _reasserted(self, event: e.Reasserted) -> None:
        state = self.state
        if state.pool.reasserting:
            pages_lost(state, set(unpack_u32(event.lost).tolist()))
            state.pool.open(self._kv_capacity)

    def _kv_down(self, _: e.KvDown) -> None:
        state = self.state
        state.pool.close()
        for asked in state.lookups.values():
            asked.expired = True
            unpark(state, asked.request.id)
        state.lookups.clear()
        for entry in state.index.kv_lost():
            # Whether it was sealed, the next Reassert tells.
            entry.state = EntryState.PINNED
            state.index.settle(entry)

    def _leased(self, event: e.Leased) -> None:
        pages, generations = unpack_handles(event.pages, event.generations)
        self.state.pool.leased(event.lease, pages, generations, self.state.now)

    def _found(self, event: e.Found) -> None:
        handles = unpack_handles(event.pages, event.generations)
        found(self.state, event.lookup, *handles, event.ahead, event.ahead_us)

    def _sealed(self, event: e.Sealed) -> None:
        pages, generations = unpack_handles(event.pages, event.generations)
        codes = unpack_u32(event.codes).tolist()
        stale = self.state.ledger.answered(event.seal, codes, pages, generations)
        pages_lost(self.state, {entry.page for entry in stale})

    # --- limits ----------------------------------------------------------------------------------------------------

    def _limited(self, event: e.Limited) -> None:
        state = self.state
        state.limits = msgspec.structs.replace(
            state.limits, slots=event.slots, step_tokens=event.step_tokens, queue_requests=event.queue_requests,
            queue_tokens=event.queue_tokens, inter_token_target_ns=event.inter_token_target_ns,
        )  # fmt: skip
        for replica in state.replicas.values():
            state.limit(replica)
        state.blocked_version = -1

    # --- time ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        state = self.state
        state.pool.tick(state.now)
        while state.deadlines and state.deadlines[0][0] <= state.now:
            _, number = heappop(state.deadlines)
            request = state.requests.get(number)
            if request is not None and request.submit.deadline_ns <= state.now:
                finish(state, request, "abort", "its deadline has passed")
        for home, since in list(state.orphaned.items()):
            if state.now - since >= state.limits.grace_ns:
                del state.orphaned[home]
                for request in [request for request in state.requests.values() if request.home == home]:
                    drop(state, request, "ingress gone")
                    state.tally.unclaimed_ns += request.spent_ns
        elapsed_ns, state.looked_ns = state.now - (state.looked_ns or state.now), state.now
        for replica in state.replicas.values():
            look_after(state, replica, elapsed_ns)
            if replica.barred and state.budget(replica.number).barred_until_ns <= state.now:
                replica.barred, replica.ready = False, True
                state.blocked_version = -1
        forget_unlisted(state)
        state.stuck = standstill(state)
        state.stuck_ns = (state.stuck_ns or state.now) if state.stuck else 0
