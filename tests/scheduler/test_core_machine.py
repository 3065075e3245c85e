"""The core against everything that can go wrong around it, in any order.

The law: whatever is late, repeated, lost or dead, every accepted request ends exactly once with exactly the tokens
that it would have had alone; no page is lost or has two owners; nothing that a step in flight can write is given away.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulated import Client, Poison, World

from bus.messages.requests import Sampling
from scheduler.core import events as e

# Prompts share prefixes, as chats do: a stem, then something of its own.
ADAPTERS = tuple(bytes([number]) * 16 for number in range(1, 4))
STEMS = ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9, 9], [5] * 17, [])


class Scheduling(RuleBasedStateMachine):
    """Random histories of submissions, steps, deaths and delays."""

    @initialize(
        replicas=st.integers(1, 3),
        pools=st.booleans(),
        slots=st.integers(1, 4),
        capacity=st.sampled_from([9, 14, 30]),
        step_tokens=st.sampled_from([5, 16, 64]),
        target_ms=st.sampled_from([0, 2]),
        disk=st.booleans(),
        drafts=st.sampled_from([0, 1, 6]),
        room=st.integers(1, 2),
        device=st.sampled_from([0, 0, 9, 12]),
        windows=st.sampled_from([(0, 0), (3, 0), (6, 0), (3, 2), (5, 2), (2, 3)]),
    )
    def begin(
        self, replicas: int, pools: bool, slots: int, capacity: int, step_tokens: int, target_ms: int, disk: bool,
        drafts: int, room: int, device: int, windows: tuple[int, int],
    ) -> None:  # fmt: skip
        self.world = World(
            replicas=replicas, slots=slots, capacity=capacity, step_tokens=max(step_tokens, slots), context=32,
            queue_requests=20, queue_tokens=400, inter_token_target_ns=target_ms * 1e6, grace_ns=2_000_000_000,
            hang_ns=1e9, drafts=drafts, straight=3, adapters=room, device_pages=device,
            window=windows[0], fold=windows[1],
            first_prefill=max(1, replicas - 1) if pools and not device else replicas,
        )  # fmt: skip
        self.world.kv.disk = {} if disk else None
        self.world.start()
        for digest in ADAPTERS:
            self.world.do(e.AdapterAdded(str(digest[0]), "path:/", digest))

    @property
    def open(self) -> list[Client]:
        return [client for client in self.world.clients.values() if not client.ended]

    @rule(
        stem=st.sampled_from(STEMS),
        tail=st.lists(st.integers(0, 3), min_size=1, max_size=6),
        max_tokens=st.integers(1, 14),
        min_tokens=st.sampled_from([0, 0, 5]),
        priority=st.integers(-1, 1),
        kind=st.sampled_from(["plain", "plain", "plain", "private", "logprobs", "prompt_logprobs", "score"]),
        home=st.sampled_from(["ingress@0", "ingress@1"]),
        tenant=st.sampled_from(["", "", "a", "b"]),
        batch=st.sampled_from([False, False, True]),
        adapter=st.sampled_from([b"", b"", *ADAPTERS]),
    )
    def submit(
        self, stem: list[int], tail: list[int], max_tokens: int, min_tokens: int, priority: int, kind: str, home: str,
        tenant: str, batch: bool, adapter: bytes,
    ) -> None:  # fmt: skip
        self.world.homes.setdefault(home, e.Home(home, 1))
        sampling = Sampling(logprobs=2 if kind == "logprobs" else -1, min_tokens=min_tokens)
        self.world.submit(
            stem + tail, 0 if kind == "score" else max_tokens, sampling=sampling, reuse=kind != "private", home=home,
            priority=priority, prompt_logprobs=0 if kind in ("prompt_logprobs", "score") else -1,
            tenant=tenant, batch=batch, weight=2.0 if tenant == "b" else 1.0, adapter=adapter,
        )  # fmt: skip

    @rule(data=st.data())
    @precondition(lambda self: self.open)
    def abort(self, data: st.DataObject) -> None:
        self.world.abort(data.draw(st.sampled_from(self.open)))

    @rule(data=st.data())
    @precondition(lambda self: self.open)
    def submit_again(self, data: st.DataObject) -> None:
        self.world.resubmit(data.draw(st.sampled_from(self.open)))

    @rule(turns=st.integers(1, 4), number=st.integers(0, 2))
    def workers_run(self, turns: int, number: int) -> None:
        for _ in range(turns):
            if number in self.world.workers and self.world.workers[number].alive:
                self.world.worker_turn(number)

    @rule(turns=st.integers(1, 6))
    def kv_runs(self, turns: int) -> None:
        for _ in range(turns):
            if self.world.kv.up:
                self.world.kv_turn()

    @rule(rounds=st.integers(1, 12))
    def all_run(self, rounds: int) -> None:
        for _ in range(rounds):
            self.kv_runs(6)
            for number, worker in self.world.workers.items():
                if worker.alive:
                    self.world.worker_turn(number)

    @rule(
        data=st.data(),
        kind=st.sampled_from(["named", "unnamed", "crash", "hang", "open"]),
        position=st.one_of(st.none(), st.integers(0, 20)),
    )
    @precondition(lambda self: self.open)
    def a_request_turns_out_to_take_its_worker_down(self, data: st.DataObject, kind: str, position: int | None) -> None:
        client = data.draw(st.sampled_from(self.open))
        for worker in self.world.workers.values():
            worker.poison[client.submit.request] = Poison(kind, None if kind == "open" else position)

    @rule(number=st.integers(0, 2))
    def step_raises(self, number: int) -> None:
        if number in self.world.workers and self.world.workers[number].alive:
            self.world.worker_turn(number, fail=True)

    @rule(number=st.integers(0, 2), fenced=st.booleans())
    def worker_dies(self, number: int, fenced: bool) -> None:
        if number in self.world.workers and self.world.workers[number].alive:
            self.world.kill(number, fenced=fenced)

    @rule(number=st.integers(0, 2))
    def worker_returns(self, number: int) -> None:
        if number in self.world.workers and not self.world.workers[number].alive:
            self.world.revive(number)

    @rule(number=st.integers(0, 2), draining=st.booleans())
    def replica_drains(self, number: int, draining: bool) -> None:
        if number in self.world.workers:
            self.world.do(e.ReplicaDrain(number, draining))

    @rule(number=st.integers(0, 1))
    def replica_leaves(self, number: int) -> None:
        if number in self.world.workers:
            self.world.do(e.ReplicaLeaving(number))

    @rule(
        slots=st.integers(1, 4),
        step_tokens=st.sampled_from([5, 16, 64]),
        target_ms=st.sampled_from([0, 2]),
        queue_requests=st.integers(1, 20),
        queue_tokens=st.sampled_from([10, 400]),
    )
    def the_operator_changes_limits(
        self, slots: int, step_tokens: int, target_ms: int, queue_requests: int, queue_tokens: int
    ) -> None:
        self.world.do(e.Limited(slots, step_tokens, target_ms * 1e6, queue_requests, queue_tokens))

    @rule()
    def kv_dies(self) -> None:
        if self.world.kv.up:
            self.world.kv_down()

    @rule(forget=st.booleans(), lose=st.sampled_from([False, False, True]))
    def kv_returns(self, forget: bool, lose: bool) -> None:
        if self.world.kv.up:
            return
        if lose:  # what is in flight would read what is lost, to no avail
            for number, worker in self.world.workers.items():
                while worker.alive and self.world.worker_turn(number):
                    pass
        self.world.kv_up(forget=forget, lose=lose)

    @rule(hidden=st.integers(0, 30))
    def somebody_else_takes_pages(self, hidden: int) -> None:
        self.world.kv.hidden = min(hidden, self.world.kv.capacity)

    @rule(disk_us=st.sampled_from([1, 1000, 100_000]))
    def memory_is_needed_elsewhere_for_a_moment(self, disk_us: int) -> None:
        self.world.kv.disk_us = disk_us
        for page in list(self.world.kv.cached):
            self.world.kv.evict(page)

    @rule()
    @precondition(lambda self: self.world.lookups)
    def lookup_expires(self) -> None:
        self.world.do(e.LookupExpired(self.world.lookups.pop(0)))

    @rule(name=st.sampled_from(["ingress@0", "ingress@1"]), back=st.booleans())
    def ingress_dies(self, name: str, back: bool) -> None:
        if name not in self.world.homes:
            return
        mine = [client for client in self.open if client.home.name == name]
        self.world.lose_ingress(name)
        for client in mine:
            if back:
                self.world.resubmit(client)
            else:
                client.aborted = True  # nobody will ask for it again

    @rule(seconds=st.floats(0.001, 1.0))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()
            self.world.kv.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.kv.hidden = 0
        for number, worker in world.workers.items():
            world.do(e.ReplicaDrain(number, False))
            leaving = number in world.core.state.replicas and world.core.state.replicas[number].leaving
            if worker.alive and leaving:  # it said that it would end
                world.kill(number)
            if not worker.alive:
                world.revive(number)
        if not world.kv.up:
            world.kv_up()
        for client in world.clients.values():
            if client.refused is None and client.finished is None and not client.aborted:
                assert client.accepted
        for _ in range(50):  # the graces of lost ingresses
            world.tick()
        world.settle()
        world.check_done()


Scheduling.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestScheduling = Scheduling.TestCase
