"""What goes into a step."""

from __future__ import annotations

from simulated import STOP, World, truth

from bus.messages.requests import Grammar, Sampling
from bus.packed import unpack_u32
from scheduler.core.cost import CostModel

LONG = list(range(1, 31))


def rows(plan: object) -> list[tuple[int, int, int]]:
    """(slot, start, count) of each row."""
    columns = (unpack_u32(getattr(plan, name)).tolist() for name in ("slots", "starts", "counts"))
    return list(zip(*columns, strict=True))


def ready(**settings: object) -> World:
    world = World(**({"capacity": 300, "context": 64, "extent": 32} | settings))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def test_a_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    world = ready(step_tokens=16)
    world.submit(LONG, reuse=False)
    world.settle()
    assert [rows(plan)[0][1:] for plan in world.plans[:3]] == [(0, 16), (16, 14), (30, 1)]


def test_only_the_chunk_that_ends_the_prompt_draws_a_token() -> None:
    world = ready(step_tokens=16)
    world.submit(LONG, reuse=False)
    world.settle()
    assert [plan.samples for plan in world.plans[:3]] == [b"\x00", b"\x01", b"\x01"]


def test_two_steps_are_in_flight_and_never_three() -> None:
    world = ready()
    world.submit([1, 2, 3], reuse=False)
    assert [plan.step for plan in world.plans] == [1, 2]
    world.worker_turn(0)
    world.worker_turn(0)  # the reset, then step 1
    assert len(world.plans) == 2
    world.worker_turn(0)  # its result
    assert [plan.step for plan in world.plans] == [1, 2, 3]


def test_decodes_come_before_the_chunks_of_others_and_share_their_step() -> None:
    world = ready(step_tokens=16)
    world.submit([1, 2, 3], 40, stops=(), reuse=False)
    world.turn(6)
    before = len(world.plans)
    world.submit(LONG, reuse=False)
    world.turn(6)
    mixed = [plan for plan in world.plans[before:] if len(rows(plan)) == 2]
    assert [rows(plan)[0][2] for plan in mixed[:2]] == [15, 15]
    assert all(rows(plan)[1][2] == 1 for plan in mixed)


def test_a_block_table_grows_by_difference_when_a_request_crosses_into_a_block() -> None:
    world = ready()
    world.submit([1, 2, 3], 8, stops=(), reuse=False)
    world.settle()
    assert [len(unpack_u32(plan.pages)) for plan in world.plans if rows(plan)] == [1, 0, 1, 0, 0, 0, 1, 0]


def test_a_request_that_ends_by_length_wastes_no_row() -> None:
    world = ready()
    client = world.submit([1, 2, 3], 5, stops=(), reuse=False)
    world.settle()
    assert len([plan for plan in world.plans if rows(plan)]) == 5
    assert client.finished is not None
    assert client.finished.reason == "length"


def prompt_that_stops(after: int) -> list[int]:
    """A prompt whose `after`-th generated token is the first stop id."""
    return next(p for p in ([n, 5] for n in range(5000)) if len(truth(p, 20, {STOP}, 0, 64)[0]) == after)


def test_a_stop_id_ends_the_request_and_is_its_last_token() -> None:
    world = ready()
    client = world.submit(prompt_that_stops(4), 20)
    world.settle()
    assert client.finished is not None
    assert client.finished.reason == "stop"
    assert client.tokens[-1] == STOP
    assert len(client.tokens) == 4


def test_the_row_that_was_planned_before_the_end_was_known_is_dropped() -> None:
    world = ready()
    world.submit(prompt_that_stops(4), 20)
    world.settle()
    assert len([plan for plan in world.plans if rows(plan)]) == 5
    world.check_done()


def test_a_stop_id_does_not_count_before_min_tokens() -> None:
    world = ready()
    client = world.submit(prompt_that_stops(2), 20, sampling=Sampling(min_tokens=6))
    world.settle()
    assert len(client.tokens) >= 6
    world.check_done()


def test_what_a_grammar_ends_is_whole_before_min_tokens() -> None:
    """Its worker draws an end only where nothing else is left."""
    world = ready()
    client = world.submit(prompt_that_stops(2), 20, sampling=Sampling(min_tokens=6, grammar=Grammar("", b"")))
    world.settle()
    assert len(client.tokens) == 2
    world.check_done()


def test_generation_ends_where_the_context_does() -> None:
    world = ready(context=32)
    client = world.submit(list(range(28)), 100, stops=())
    world.settle()
    assert len(client.tokens) == 4
    assert client.finished is not None
    assert client.finished.reason == "length"


def test_closed_slots_are_told_even_when_nothing_else_is_to_be_done() -> None:
    world = ready()
    world.submit([1, 2, 3], 3)
    world.settle()
    while world.worker_turn(0):
        pass
    assert world.workers[0].state == {}


def test_prompt_log_probabilities_come_once_for_every_position_and_before_the_first_token() -> None:
    world = ready(step_tokens=16)
    world.submit(LONG, 4)
    world.settle()
    client = world.submit(LONG, 4, prompt_logprobs=0)
    world.settle()
    assert client.prompt_logprobs == [-float(position) for position in range(1, 30)]
    assert client.finished is not None
    assert client.finished.cached_tokens == 0, "a position that is found is not computed, and has no logits"


def test_a_prompt_can_be_scored_without_generating() -> None:
    world = ready(step_tokens=16)
    client = world.submit(LONG, 0, prompt_logprobs=0)
    world.settle()
    assert len(client.prompt_logprobs) == 29
    assert client.tokens == []
    assert client.finished is not None


def test_chunks_shrink_so_that_decodes_keep_their_pace() -> None:
    """A worker that takes 1 ms and 10 us a token (see `Worker.execute`), and a target of 1.3 ms."""
    world = ready(step_tokens=64, slots=8, context=200, inter_token_target_ns=1_300_000)
    world.submit([1, 2], 150, stops=(), reuse=False)
    for n in range(12):
        world.submit(list(range(1, 10 + n)), 2, stops=(), reuse=False)
        world.turn(6)
    before = len(world.plans)
    world.submit(list(range(150)), 2, reuse=False)
    world.turn(12)
    chunks = [rows(plan)[0][2] for plan in world.plans[before:] if len(rows(plan)) > 1 and rows(plan)[0][2] > 1]
    assert chunks
    assert all(16 <= chunk <= 31 for chunk in chunks[:-1]), chunks


def test_prefill_goes_on_under_a_target_that_cannot_be_met_in_smallest_chunks() -> None:
    world = ready(step_tokens=64, slots=4, context=200, inter_token_target_ns=1)
    world.submit([1, 2], 150, stops=(), reuse=False)
    world.turn(40)
    before = len(world.plans)
    client = world.submit(LONG, 3, reuse=False)
    world.turn(20)
    assert client.finished is not None
    assert max(count for plan in world.plans[before:] for _, _, count in rows(plan)) == 16


def test_the_cost_model_finds_the_worker_behind_noise() -> None:
    model = CostModel()
    for n in range(400):
        tokens, pairs = 1 + n % 7 * 40, float(n % 11 * 5000)
        noise = 1.0 + 0.05 * ((n * 7919) % 100 / 50 - 1)
        model.observe(tokens, pairs, int((2e6 + 30_000 * tokens + 40 * pairs) * noise))
    predicted = model.predict_ns(100, 20_000)
    assert abs(predicted - 5.8e6) < 0.4e6
    chunk = model.chunk_within(10e6, 10, 1000, 100)
    assert chunk is not None
    assert 180 < chunk < 280
    assert model.predict_ns(10 + chunk, 1000 + chunk * (100 + chunk / 2)) < 10.2e6


def test_one_outlier_does_not_topple_the_cost_model() -> None:
    model = CostModel()
    for n in range(50):
        model.observe(1 + n % 5, 100.0, 1_000_000)
    model.observe(3, 100.0, 60_000_000_000)
    assert model.predict_ns(3, 100.0) < 3_000_000
