"""The process around the core: its sockets, its timer, and the processes on the other side of them. No decisions."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

import msgspec

from bus.blocks import KV_LAYOUT, root_digest
from bus.messages.adapters import AdapterAnswer, AdapterState, KeepAdapters, LoadAdapter, UnloadAdapter
from bus.messages.common import Nack, ProcessState
from bus.messages.control import (
    Answer,
    CancelRequest,
    Drain,
    GetLimits,
    LimitsInForce,
    LimitValues,
    ModelStatus,
    Ok,
    Rejected,
    SetLimits,
    ToProcess,
    Undrain,
)
from bus.messages.requests import Abort, ModelFacts, Submit, ToScheduler
from bus.messages.steps import Leaving, Registered, Reset, StepFailed, StepResult, ToSchedulerFromWorker
from bus.names import REQUESTS_DOOR, STEPS_DOOR, InvalidName, parse_process, parse_worker
from bus.orders import limits_in_words
from bus.process import Description, Life
from bus.server import Peer, Server
from scheduler.adapters import AdapterDesk, Reply
from scheduler.core import events as e
from scheduler.core.core import SchedulerCore
from scheduler.core.overview import scheduler_view
from scheduler.core.state import Limits
from scheduler.core.view import live_requests
from scheduler.limits import Keeper, Unfit, checked, configured, difference, differing, merged
from scheduler.measures import Measures
from scheduler.page_link import PageLink
from scheduler.ranks import Rank, RankGroup

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
MEASURE_S: Final = 0.25
LOOK_S: Final = 0.5
RATE_MEMORY_S: Final = 5.0
LONG_STEP_NS: Final = 500_000_000  # from here on it matters whether the worker computes


class SchedulerService:
    """`Service` of scheduler@MODEL."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._model = model = life.config.model_named(life.instance)
        self._configured = configured(model)
        self._keeper = Keeper(life.run, life.name)
        self._limits = self._keeper.load(self._configured)
        self._base = Limits(
            model=model.name, replicas=model.all_replicas, first_prefill=model.first_prefill,
            prefix_cache=model.prefix_cache, drafts=model.drafts, hang_ns=model.hang_s * 1e9,
            adapters=model.lora.resident,
            **_for_core(self._configured),
        )  # fmt: skip
        now = msgspec.structs.replace(self._base, **_for_core(self._limits))
        self.core = SchedulerCore(now, life.loop.now_ns)
        self._groups = {number: RankGroup(number) for number in range(model.all_replicas)}
        self._geometry: Registered | None = None
        self._root = b""
        self._pool_open = False
        self._facts: ModelFacts | None = None
        self._measures = Measures(life.telemetry, model.name)
        self._tokens_per_s = 0.0
        self._handed_over = False
        self._events: deque[e.Event] = deque()
        self._adapters = AdapterDesk(life.config, model, life.run, self._feed, lambda: self.core.state)

    def start(self) -> None:
        # Whoever ends it means its successor: nobody new is refused so that those in hand can end here.
        self._life.patience_s = 0.0
        life = self._life
        self._ingresses: Server[ToScheduler] = Server(
            life, REQUESTS_DOOR, "requests", ToScheduler, roles={"ingress"}, on_message=self._on_ingress,
            on_join=self._on_ingress_join, on_leave=lambda peer, _: self._feed(e.IngressLost(_home(peer))),
        )  # fmt: skip
        self._workers: Server[ToSchedulerFromWorker] = Server(
            life, STEPS_DOOR, "steps", ToSchedulerFromWorker, roles={"worker"}, on_message=self._on_worker,
            on_leave=self._on_worker_leave,
        )  # fmt: skip
        self._pages = PageLink(life, self._on_kv)
        self._timers = [life.loop.every(TICK_S, self._tick), life.loop.every(MEASURE_S, self._measure)]
        self._timers.append(life.loop.every(LOOK_S, self._look_whether_frozen))
        life.telemetry.live(lambda: live_requests(self.core.state, life.name, life.loop.now_ns()))
        life.telemetry.views.append(lambda: self._measures.steps(self.core.steps, life.name))
        life.telemetry.slow_views.append(
            lambda: scheduler_view(self.core.state, life.name, self._base, life.loop.now_ns())
        )
        self._adapters.start()
        life.ready()

    def describe(self) -> Description:
        state, facts = self.core.state, self._current_facts()
        ready = facts.replicas_ready
        slots = sum(replica.slots for replica in state.replicas.values() if replica.ready)
        status = ModelStatus(
            self._model.name, self._state, self._model.all_replicas, ready, len(state.queue), state.running,
            self._tokens_per_s, facts.trouble, facts.stuck,
            (self._life.loop.now_ns() - facts.stuck_ns) / 1e9 if facts.stuck_ns else 0.0,
            self._geometry.kind if self._geometry is not None else "",
        )  # fmt: skip
        text = f"{state.running} running, {len(state.queue)} waiting, {ready} of {self._model.all_replicas} replicas"
        if changed := difference(self._limits, self._configured):
            text += f"; by order: {changed}"
        if barred := sum(budget.barred_until_ns > state.now for budget in state.budgets.values()):
            text += f", {barred} taken out for failing"
        return Description(load=state.running / slots if slots else 0.0, detail=text, models=(status,))

    def drain(self) -> None:
        self.core.drain(True)

    def undrain(self) -> None:
        self.core.drain(False)

    def drained(self) -> bool:
        return self.core.idle or self._handed_over

    def hand_over(self) -> None:
        """The ingresses have every request with its tokens, and give them to the next scheduler."""
        self._handed_over = True

    def stop(self) -> None:
        for cancel in self._timers:
            cancel()
        self._measure()
        self._ingresses.close()
        self._workers.close()
        self._pages.close()
        for group in self._groups.values():
            group.close()

    def control(self, message: ToProcess) -> Answer | None:
        if isinstance(message, CancelRequest):
            if message.request not in self.core.state.requests:
                return Rejected(message.rid, "no such request here: it has ended")
            request = self.core.state.requests[message.request]
            here = self.core.state.replicas.get(request.replica)
            made = int(here.known[request.slot]) - request.prompt_len if here is not None else request.generated
            before = f"{request.phase.name.lower()}, {made} tokens"
            self._feed(e.Cancelled(message.request))
            return Ok(message.rid, "cancelled", before, "ended")
        if isinstance(message, Drain | Undrain):
            return self._drain_replica(message)
        if isinstance(message, GetLimits):
            return LimitsInForce(message.rid, self._limits, self._configured, self._most())
        if isinstance(message, SetLimits):
            return self._set_limits(message)
        return self._adapters.control(message)

    # --- limits ----------------------------------------------------------------------------------------------------

    def _set_limits(self, message: SetLimits) -> Ok | Rejected:
        before = self._limits
        try:
            now = checked(merged(self._configured if message.reset else before, message.limits), self._most())
        except Unfit as unfit:
            return Rejected(message.rid, str(unfit))
        self._limits = now
        self._feed(e.Limited(**_for_core(now)))
        unkept = self._keeper.save(now, self._configured)
        running = self.core.state.running
        detail = "; ".join(filter(None, (f"from the next step on; {running} running go on", unkept)))
        return Ok(message.rid, detail, *(" ".join(limits_in_words(said)) for said in differing(before, now)))

    def _most(self) -> LimitValues:
        """What the workers that are up have room for; as configured where none is."""
        replicas = list(self.core.state.replicas.values())
        slots = min((replica.slots for replica in replicas), default=self._model.slots)
        tokens = min((replica.step_tokens for replica in replicas), default=self._model.step_tokens)
        return LimitValues(slots, tokens)

    # --- ingresses -------------------------------------------------------------------------------------------------

    def _on_ingress_join(self, peer: Peer) -> None:
        self._ingresses.send(peer, self._current_facts())
        self._feed(e.IngressJoined(_home(peer)))

    def _on_ingress(self, peer: Peer, message: ToScheduler) -> None:
        if isinstance(message, Submit):
            self._feed(e.Submitted(_home(peer), message))
        elif isinstance(message, Abort):
            self._feed(e.Aborted(message))
        elif isinstance(message, LoadAdapter):
            self._adapters.load(message, self._reply_to(peer, message.rid))
        elif isinstance(message, UnloadAdapter):
            self._adapters.unload(message, self._reply_to(peer, message.rid))

    def _reply_to(self, peer: Peer, rid: int) -> Reply:
        def reply(problem: str, missing: bool) -> None:
            self._tell_facts()  # whoever hears that it is there may ask for it at once
            if self._ingresses.peers.get(peer.name) is peer:
                self._ingresses.send(peer, AdapterAnswer(rid, problem, missing))

        return reply

    def _current_facts(self) -> ModelFacts:
        return self.core.facts(self._root, self._geometry.vocabulary if self._geometry else 0)

    def _tell_facts(self) -> None:
        """To every ingress, if anything has changed."""
        facts = self._current_facts()
        if facts != self._facts:
            self._facts = facts
            for peer in tuple(self._ingresses.peers.values()):
                self._ingresses.send(peer, facts)

    # --- workers ---------------------------------------------------------------------------------------------------

    def _on_worker(self, peer: Peer, message: ToSchedulerFromWorker) -> None:
        if isinstance(message, Registered):
            self._register(peer, message)
            return
        group = self._group_of(peer)
        if group is None:
            return  # of a replica that is being put together: nothing it says is an answer
        if isinstance(message, StepFailed):
            log.error("%s: step %d failed: %s", peer.name, message.step, message.error)
            self._feed(e.StepBroken(group.number, message))
        elif isinstance(message, Leaving):
            log.info("replica %d leaves: %s is about to end", group.number, peer.name)
            self._feed(e.ReplicaLeaving(group.number))
            self._tell_facts()
        elif isinstance(message, AdapterState):
            rank = next(number for number, rank in group.ranks.items() if rank.peer is peer)
            self._adapters.heard(group.number, rank, len(group.ranks), message)
        elif isinstance(message, StepResult) and group.ranks[0].peer is peer:
            self._life.progressed()
            self._feed(e.StepDone(group.number, message))

    def _register(self, peer: Peer, message: Registered) -> None:
        if problem := self._mismatch(peer, message):
            log.error("%s does not fit: %s", peer.name, problem)
            self._workers.send(peer, Nack("mismatch", problem))
            return
        if self._geometry is None:
            self._geometry = message
            self._root = root_digest(message.weights_digest, message.kv.dtype, KV_LAYOUT, message.kv.page_tokens)
            if message.dimensions:
                self._pool_open = True  # an encoder keeps nothing
            else:
                self._pages.use(self._root, message.kv)
        group = self._groups[message.replica]
        if group.whole:
            self._lose(group, f"{peer.name} registered again")
        rank = Rank(self._life.loop, peer, message, lambda: self._fence(group))
        group.enter(rank)
        self._fence(group)
        self._announce(group)

    def _mismatch(self, peer: Peer, message: Registered) -> str:
        """Why a worker cannot be part of this model; empty where it can."""
        try:
            named = parse_worker(parse_process(peer.name).instance)
        except InvalidName as invalid:
            return str(invalid)
        if (message.model, message.replica, message.rank) != named or message.model != self._model.name:
            return f"{peer.name} says that it is rank {message.rank} of replica {message.replica} of {message.model}"
        if message.replica not in self._groups or not 0 <= message.rank < message.ranks:
            return f"replica {message.replica} of {self._model.all_replicas}, rank {message.rank} of {message.ranks}"
        known = self._geometry
        if known is not None and _shape(known) != _shape(message):
            return "weights or KV geometry differ from those of the other workers of this model"
        return ""

    def _announce(self, group: RankGroup) -> None:
        """Tell the core of a replica that is whole, once there are pages for it."""
        if group.whole or not group.complete or not self._pool_open:
            return
        group.whole = True
        said = [rank.registered for rank in group.ranks.values()]
        log.info("replica %d is ready (%d ranks)", group.number, len(said))
        slots, step_tokens = min(each.slots for each in said), min(each.step_tokens for each in said)
        first, cores = said[0], sum(each.threads for each in said)
        context, page, drafts = first.context_tokens, first.kv.page_tokens, min(each.drafts for each in said)
        on_device = min(each.device_pages for each in said)
        window, fold = first.window if all(each.window for each in said) else 0, first.fold
        self._feed(
            e.ReplicaUp(
                group.number,
                slots,
                step_tokens,
                context,
                page,
                cores,
                first.dimensions,
                drafts,
                on_device,
                window,
                fold,
            )
        )
        self._feed(e.ReplicaDrain(group.number, group.draining))
        self._tell_facts()

    def _on_worker_leave(self, peer: Peer, reason: str) -> None:
        for group in self._groups.values():
            if group.leave(peer):
                if group.whole:
                    self._lose(group, f"{peer.name} {reason}")
                return

    def _lose(self, group: RankGroup, why: str) -> None:
        log.warning("replica %d is lost: %s", group.number, why)
        group.lose()
        self._adapters.lost(group.number)
        self._feed(e.ReplicaLost(group.number, why))
        self._fence(group)
        self._tell_facts()

    def _fence(self, group: RankGroup) -> None:
        if group.fenced and group.number in self.core.state.replicas:
            self._feed(e.ReplicaFenced(group.number))

    def _group_of(self, peer: Peer) -> RankGroup | None:
        for group in self._groups.values():
            if group.whole and any(rank.peer is peer for rank in group.ranks.values()):
                return group
        return None

    def _drain_replica(self, message: Drain | Undrain) -> Ok | Rejected:
        try:
            named = parse_worker(parse_process(message.name).instance)
        except InvalidName as invalid:
            return Rejected(message.rid, str(invalid))
        group = self._groups.get(named.replica)
        if named.model != self._model.name or group is None:
            return Rejected(message.rid, f"{message.name} is no worker of {self._model.name}")
        group.drained = isinstance(message, Drain)
        self._sync_drains()
        replica = self.core.state.replicas.get(group.number)
        return Ok(message.rid, f"{replica.running if replica else 0} running")

    def _sync_drains(self) -> None:
        for group in self._groups.values():
            replica = self.core.state.replicas.get(group.number)
            if replica is not None and replica.draining != group.draining:
                self._feed(e.ReplicaDrain(group.number, group.draining))
                self._tell_facts()

    # --- kv and time -----------------------------------------------------------------------------------------------

    def _on_kv(self, event: e.Event) -> None:
        self._feed(event)
        if isinstance(event, e.KvUp):
            self._pool_open = True
            for group in self._groups.values():
                self._announce(group)
            self._tell_facts()

    def _tick(self) -> None:
        self._sync_drains()
        for number, replica in tuple(self.core.state.replicas.items()):
            if replica.flights:
                # A long step silences its worker before it can say that it is busy. Here it is known to be: only the
                # cost model judges how long it may take.
                for rank in self._groups[number].ranks.values():
                    rank.peer.busy = True
            if replica.watch.waited_ns > LONG_STEP_NS:
                self._feed(e.ReplicaComputed(number, self._groups[number].cpu_ns()))
        self._feed(e.Tick())
        self._tell_facts()  # a replica that was taken out may be back

    def _look_whether_frozen(self) -> None:
        now_ns = self._life.loop.now_ns()
        for number, group in self._groups.items():
            replica = self.core.state.replicas.get(number)
            if replica is not None and group.whole and (why := group.frozen(now_ns)) != replica.frozen:
                log.log(logging.WARNING if why else logging.INFO, "replica %d: %s", number, why or "moves again")
                self._feed(e.ReplicaFrozen(number, why))
                self._tell_facts()

    def _measure(self) -> None:
        tokens = self._measures.take(self.core.state, self._ready)
        self._measures.take_steps(self.core.steps)
        share = MEASURE_S / RATE_MEMORY_S
        self._tokens_per_s += share * (tokens / MEASURE_S - self._tokens_per_s)

    # --- the core --------------------------------------------------------------------------------------------------

    def _feed(self, event: e.Event) -> None:
        """Let the core decide, and do what it says. What that brings about at once, a hang-up say, comes after it."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            self._act(self.core.handle(self._events[0], self._life.loop.now_ns()))
            self._events.popleft()
        self._life.busy = self.core.state.running > 0
        if self._adapters.keep():
            self._tell_facts()
        self._adapters.answer()

    def _act(self, actions: list[e.Action]) -> None:
        for action in actions:
            if isinstance(action, e.SendPlan):
                began_ns = self._life.loop.now_ns()
                self._to_ranks(action.replica, action.plan)
                self._measures.sent(self._life.loop.now_ns() - began_ns)
            elif isinstance(action, e.Reply):
                peer = self._ingresses.peers.get(action.home.name)
                if peer is not None and peer.epoch == action.home.epoch:
                    self._ingresses.send(peer, action.body)
            elif isinstance(action, e.Note):
                self._life.telemetry.event(action.event)
            elif isinstance(action, e.ResetReplica):
                self._to_ranks(action.replica, Reset(action.next_step))
            elif isinstance(action, e.KeepAdaptersOf):
                self._adapters.told(action.replica, action.adapters)
                self._to_ranks(action.replica, KeepAdapters(action.adapters))
            elif isinstance(action, e.AdapterTold):
                self._adapters.acted(action)
            elif isinstance(action, e.KillReplica):
                log.error("replica %d is ended: %s", action.replica, action.why)
                self._groups[action.replica].kill()
            elif isinstance(action, e.ReplicaFailed):
                log.critical(
                    "replica %d fails whatever it is given and is taken out for %.0f s: %s",
                    action.replica, action.for_ns / 1e9, action.why,
                )  # fmt: skip
            else:
                self._pages.ask(action)

    def _to_ranks(self, replica: int, message: object) -> None:
        for rank in self._groups[replica].ranks.values():
            self._workers.send(rank.peer, message)  # type: ignore[arg-type]

    @property
    def _ready(self) -> int:
        return self._current_facts().replicas_ready

    @property
    def _state(self) -> ProcessState:
        if self._life.state != "ready":
            return self._life.state
        if self._ready:
            return "ready"
        return "failed" if self.core.state.given_up else "starting"


def _for_core(limits: LimitValues) -> dict[str, Any]:
    """In the core's units. All of them are there."""
    assert limits.inter_token_target_ms is not None
    return {
        "slots": limits.slots, "step_tokens": limits.step_tokens, "queue_requests": limits.queue_requests,
        "queue_tokens": limits.queue_tokens, "inter_token_target_ns": limits.inter_token_target_ms * 1e6,
    }  # fmt: skip


def _home(peer: Peer) -> e.Home:
    return e.Home(peer.name, peer.epoch)


def _shape(registered: Registered) -> tuple[object, ...]:
    """What all workers of a model must have in common."""
    return (
        registered.weights_digest, registered.kv, registered.context_tokens, registered.vocabulary, registered.ranks,
        registered.kind, registered.dimensions,
    )  # fmt: skip
