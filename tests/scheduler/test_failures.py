"""Deaths, hangs, repetitions: what was accepted is completed, and nobody pays for another."""

from __future__ import annotations

from simulated import Client, Poison, World

from bus.messages.requests import Abort, Sampling
from bus.messages.steps import StepFailed, StepResult
from bus.packed import pack_u32, unpack_u32
from scheduler.core import events as e

STEM = list(range(1, 14))


def ready(**settings: object) -> World:
    world = World(**({"capacity": 60, "slots": 4} | settings))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def some_tokens(world: World, client: Client, count: int = 5) -> None:
    while len(client.tokens) < count:
        while world.kv_turn():
            pass
        world.worker_turn(0)


def test_a_lost_replica_s_requests_go_on_with_the_tokens_and_blocks_they_had() -> None:
    world = ready()
    client = world.submit(STEM, 12, stops=())
    some_tokens(world, client)
    world.kill(0)
    before = len(world.plans)
    world.revive(0)
    world.settle()
    assert client.tokens == client.expected
    (opened,) = world.plans[before].opens
    assert opened.computed == 16, "what was named is not computed again"
    assert len(opened.tokens) // 4 == 13 + 5


def test_they_go_on_at_another_replica_where_there_is_one() -> None:
    world = ready(replicas=2)
    client = world.submit(STEM, 12, stops=())
    some_tokens(world, client)
    world.kill(0)
    world.settle()
    assert client.tokens == client.expected


def test_a_replica_that_leaves_finishes_its_steps_and_its_requests_go_on_without_blame() -> None:
    world = ready(replicas=2)
    client = world.submit(STEM, 12, stops=())
    some_tokens(world, client)
    replica = world.core.state.replicas[0]
    under_way = len(replica.flights)
    assert under_way
    world.do(e.ReplicaLeaving(0))
    assert world.core.state.requests[client.submit.request].replica == 0, "until its steps are done"
    known = len(client.tokens)
    while replica.flights:
        world.worker_turn(0)
    assert len(client.tokens) == known + under_way, "what was under way is not lost"
    request = world.core.state.requests[client.submit.request]
    assert request.replica != 0
    assert request.strikes == 0
    world.worker_turn(0)
    assert not world.workers[0].inbox
    assert not world.workers[0].state, "its slots are closed, so it may end"
    world.kill(0)
    world.settle()
    assert client.tokens == client.expected


def test_requests_of_a_replica_that_leaves_wait_for_its_successor_where_it_is_alone() -> None:
    world = ready()
    clients = [world.submit(STEM, 12, stops=()), world.submit([7, 8, 9], 12, stops=())]
    some_tokens(world, clients[0])
    world.do(e.ReplicaLeaving(0))
    clients.append(world.submit([4, 5], 3, stops=()))
    world.turn(20)
    assert world.core.state.running == 0
    assert not world.core.state.replicas[0].placeable
    world.kill(0)
    world.revive(0)
    world.settle()
    assert all(client.tokens == client.expected for client in clients)


def test_pages_that_a_lost_replica_may_write_wait_until_it_is_fenced() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=(), reuse=False)
    some_tokens(world, client, 2)
    world.kill(0, fenced=False)
    assert world.core.state.pool.coming > 0
    world.do(e.ReplicaFenced(0))
    assert world.core.state.pool.coming == 0


def test_the_requeued_come_before_those_who_waited() -> None:
    world = ready(slots=1)
    first = world.submit([1, 2, 3], 8, stops=(), priority=3, reuse=False)
    world.submit([2, 2, 3], 8, stops=(), priority=0, reuse=False)
    some_tokens(world, first, 2)
    world.kill(0)
    world.revive(0)
    assert [request for request, kind in world.notes if kind == "admitted"] == [first.submit.request] * 2


def test_a_request_that_takes_the_worker_down_twice_is_quarantined_and_the_others_go_on() -> None:
    world = ready(slots=2)
    bad, good = world.submit([6, 6, 6], 8, stops=(), reuse=False), world.submit([7, 7, 7], 8, stops=(), reuse=False)
    for _ in range(2):
        world.workers[0].poison = {bad.submit.request: Poison()}
        for _ in range(6):
            world.worker_turn(0)
    world.settle()
    assert bad.finished is not None
    assert bad.finished.reason == "error"
    assert good.tokens == good.expected
    world.resubmit(bad)
    assert bad.refused is not None
    assert bad.refused.code == "quarantined"


def test_deaths_with_progress_between_them_are_not_the_request_s_fault() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=())
    for count in (2, 4, 6, 8):
        some_tokens(world, client, count)
        world.kill(0)
        world.revive(0)
    world.settle()
    assert client.tokens == client.expected


def test_prompt_log_probabilities_that_were_sent_are_not_sent_again_after_a_death() -> None:
    world = ready(step_tokens=8)
    client = world.submit(STEM, 4, prompt_logprobs=0)
    while not client.prompt_logprobs:
        world.turn(1)
    world.kill(0)
    world.revive(0)
    world.settle()
    assert client.prompt_logprobs == [-float(position) for position in range(1, 13)]


def test_a_result_of_before_a_failure_is_late_and_says_nothing() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=())
    some_tokens(world, client, 2)
    world.do(e.StepDone(0, StepResult(1, b"", b"", 0, 1)))
    world.settle()
    assert client.tokens == client.expected


def test_a_result_that_does_not_answer_its_plan_is_a_failure_of_the_worker() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=())
    world.do(e.StepDone(0, StepResult(1, b"", b"", 0, 1)))
    assert any(isinstance(action, e.ResetReplica) for action in world.actions)
    world.settle()
    assert client.tokens == client.expected


def test_a_hung_step_is_ended_and_told_once() -> None:
    world = ready(hang_ns=1e9)
    client = world.submit([1, 2, 3], 12, stops=())
    for _ in range(8):
        world.tick(0.2)
    assert world.killed == [0]
    world.kill(0)
    world.revive(0)
    world.settle()
    assert client.tokens == client.expected


def test_a_worker_that_is_lost_lives_and_does_not_come_back_is_ended() -> None:
    """A stopped process that had nothing to do: its silence ends the connection, not the process."""
    world = ready()
    world.do(e.ReplicaLost(0, "silent"))
    for _ in range(100):
        world.tick(0.09)
    assert world.killed == []
    for _ in range(20):
        world.tick(0.09)
    assert world.killed == [0]


def test_a_worker_that_is_known_to_be_dead_or_is_back_is_not() -> None:
    world = ready(replicas=2)
    world.do(e.ReplicaLost(0, "died"))
    world.do(e.ReplicaFenced(0))
    world.do(e.ReplicaLost(1, "silent"))
    world.revive(1)
    for _ in range(300):
        world.tick(0.09)
    assert world.killed == []


def test_a_worker_that_uses_no_cpu_is_ended_sooner() -> None:
    world = ready(hang_ns=30e9)
    client = world.submit([1, 2, 3], 30, stops=(), reuse=False)
    some_tokens(world, client, 12)  # step times are known
    ticks = 0
    while not world.killed:
        world.tick(0.05)
        world.do(e.ReplicaComputed(0, 123_000_000))
        ticks += 1
    assert 3.0 <= ticks * 0.05 <= 3.5


def test_a_step_that_runs_out_of_memory_is_tried_once_more_with_less_and_nobody_is_blamed() -> None:
    world = ready(step_tokens=64, context=200, capacity=200, extent=32)
    world.workers[0].memory = 40
    client = world.submit([n % 30 for n in range(60)], 8, stops=(), reuse=False)
    world.settle()
    assert client.tokens == client.expected
    assert world.killed == []
    sizes = [sum(unpack_u32(plan.counts).tolist()) for plan in world.plans if plan.samples]
    assert (sizes[0], max(sizes[1:])) == (60, 30)


def test_steps_grow_again_when_memory_sufficed_for_a_while() -> None:
    world = ready(step_tokens=64, context=200, capacity=200, extent=32)
    world.workers[0].memory = 40
    world.submit([1] * 60, 140, stops=(), reuse=False)
    world.settle()
    assert world.core.state.replicas[0].step_limit == 64


def test_a_worker_that_runs_out_of_memory_again_is_restarted() -> None:
    world = ready(step_tokens=64, context=200, capacity=200, extent=32)
    world.workers[0].memory = 20
    client = world.submit([n % 30 for n in range(60)], 8, stops=(), reuse=False)
    while not world.killed:
        world.turn(1)
    world.workers[0].memory = 64
    world.settle()
    assert client.tokens == client.expected


def test_nothing_that_a_dead_incarnation_still_says_changes_anything() -> None:
    """Results, failures and drawn tokens of before a reset, and of before a death, at any time after it."""
    world = ready()
    client = world.submit(STEM, 12, stops=())
    some_tokens(world, client, 3)
    late: list[e.Event] = []
    for step in range(1, world.core.state.replicas[0].next_step):
        lie = StepResult(step, pack_u32([0]), pack_u32([39]), 0, 1)
        late += [e.StepDone(0, lie), e.StepBroken(0, StepFailed(step, "long ago"))]
    world.kill(0)

    def nothing_changes() -> None:
        before = (len(client.tokens), len(world.plans), len(world.resets), world.core.state.pool.free)
        for event in late:
            world.do(event)
        assert (len(client.tokens), len(world.plans), len(world.resets), world.core.state.pool.free) == before

    nothing_changes()
    world.revive(0)
    nothing_changes()
    while client.finished is None:
        world.turn(1)
        nothing_changes()
    assert client.tokens == client.expected


def test_an_ingress_that_does_not_come_back_loses_its_requests_after_a_grace() -> None:
    world = ready(grace_ns=2_000_000_000)
    client = world.submit([1, 2, 3], 40, stops=())
    world.lose_ingress("ingress@0")
    world.tick(1.0)
    assert client.submit.request in world.core.state.requests
    world.tick(1.1)
    assert not world.core.state.requests


def test_an_ingress_that_comes_back_gets_what_it_lacks_log_probabilities_too() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=(), sampling=Sampling(logprobs=1))
    some_tokens(world, client, 4)
    world.lose_ingress("ingress@0")
    for _ in range(4):
        world.worker_turn(0)
    client.tokens, client.logprobs = client.tokens[:2], client.logprobs[:2]
    world.resubmit(client)
    world.tick(40.0)
    world.settle()
    assert client.tokens == client.expected
    assert client.logprobs == [float(token) for token in client.expected]


def test_what_a_dead_ingress_had_under_way_takes_nothing_from_the_one_that_adopted_its_request() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=())
    some_tokens(world, client, 4)
    lost, submitted = client.home, client.submit
    world.resubmit(client, adopter="ingress@1")
    world.do(e.Submitted(lost, submitted))
    world.do(e.Aborted(Abort(client.submit.request, "client", 1)))
    world.lose_ingress("ingress@0")
    world.tick(40.0)
    world.settle()
    assert client.tokens == client.expected


def test_nor_before_the_first_worker() -> None:
    world = World(capacity=60)
    world.kv_up()
    client = world.submit(STEM, 6, stops=())
    lost, submitted = client.home, client.submit
    world.resubmit(client, adopter="ingress@1")
    world.do(e.Submitted(lost, submitted))
    world.do(e.Aborted(Abort(client.submit.request, "client", 0)))
    world.revive(0)
    world.settle()
    assert client.tokens == client.expected


def test_who_adopts_with_fewer_tokens_than_were_submitted_gets_their_log_probabilities_too() -> None:
    """The scheduler never had those of tokens that came with a submission; drawn again they are the same tokens."""
    world = ready()
    client = world.submit([1, 2, 3], 12, stops=(), sampling=Sampling(logprobs=1))
    some_tokens(world, client, 6)
    world.abort(client)  # what is known of it is lost, as with a scheduler
    client.aborted = False
    world.resubmit(client)
    client.tokens, client.logprobs = client.tokens[:2], client.logprobs[:2]
    world.resubmit(client, adopter="ingress@1")
    world.settle()
    assert client.tokens == client.expected
    assert client.logprobs == [float(token) for token in client.expected]
    world.check_done()


def test_requests_of_a_lost_ingress_do_not_keep_a_scheduler_from_ending() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 40, stops=())
    assert not world.core.idle
    world.lose_ingress("ingress@0")
    assert world.core.idle
    world.resubmit(client, adopter="ingress@1")
    assert not world.core.idle


def test_a_resubmission_whose_end_was_lost_is_ended_at_once() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 4, stops=())
    world.settle()
    client.finished = None
    plans = len(world.plans)
    world.resubmit(client)
    assert client.finished is not None
    assert client.finished.reason == "length"
    assert len(world.plans) == plans


def test_resubmissions_may_come_before_the_first_worker() -> None:
    world = World(capacity=60)
    world.kv_up()
    client = world.submit(STEM, 6, stops=())
    assert client.accepted, "it knows the root: an earlier incarnation of us promised an answer"
    world.revive(0)
    world.settle()
    assert client.tokens == client.expected


def test_aborts_are_idempotent_at_any_time() -> None:
    world = ready(slots=1)
    running, waiting = world.submit(STEM, 12), world.submit([9, *STEM], 12)
    for client in (running, waiting, running, waiting):
        world.abort(client)
    world.settle()
    world.check_done()


def test_steps_go_on_while_kv_is_down() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 6, stops=())
    world.kv_down()
    for _ in range(30):
        world.worker_turn(0)
    assert client.finished is not None
    world.kv_up()
    world.settle()
    world.check_done()
