"""KV that is there already: found here, found in kv, or about to be computed by a sibling."""

from __future__ import annotations

import pytest
from simulated import World

from scheduler.core import events as e
from scheduler.core.admission import LOOKUP_MAX_MS, LOOKUP_MIN_MS

STEM = list(range(1, 14))  # three blocks and a token


def ready(**settings: object) -> World:
    world = World(**({"capacity": 60, "slots": 4} | settings))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def test_pages_of_a_running_request_are_shared_without_asking_kv() -> None:
    world = ready()
    world.submit([*STEM, 1], 30)
    for _ in range(4):
        world.worker_turn(0)
        while world.kv_turn():
            pass
    client = world.submit([*STEM, 2], 3)
    assert not world.lookups
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 12


def test_what_was_found_is_told_with_the_first_token() -> None:
    """An ingress that finds a stop string never hears of the end."""
    world = ready()
    world.submit(STEM, 3)
    world.settle()
    client = world.submit(STEM, 30, stops=())
    while not client.tokens:
        world.worker_turn(0)
        while world.kv_turn():
            pass
    assert client.finished is None
    assert client.cached == 12


def test_pages_that_nobody_holds_any_more_are_found_in_kv() -> None:
    world = ready()
    world.submit(STEM, 3)
    world.settle()
    assert len(world.core.state.index) == 0
    client = world.submit(STEM, 3)
    assert world.lookups
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 12


def test_blocks_that_are_let_go_while_kv_is_asked_about_those_before_them_are_asked_for_too() -> None:
    """The next turn of a chat comes right after the last: kv has not answered yet that its last blocks are sealed."""
    world = ready(step_tokens=8)
    first = world.submit(STEM, 1, stops=())
    while first.finished is None:
        while world.kv_turn():
            pass
        world.worker_turn(0)
    client = world.submit(STEM, 3)
    assert 0 < len(world.core.state.index) < 3
    assert world.lookups
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 12


def test_generated_blocks_are_found_too() -> None:
    world = ready()
    first = world.submit(STEM, 12, stops=())
    world.settle()
    client = world.submit(STEM + first.tokens, 2)
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 24


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    world = ready()
    for _ in range(2):
        client = world.submit(STEM[:12], 2)
        world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 8


def test_a_sibling_waits_for_the_prefix_that_another_is_computing() -> None:
    world = ready(step_tokens=8)
    world.submit([*STEM, 1], 3)
    siblings = [world.submit([*STEM, n], 3) for n in (2, 3)]
    world.settle()
    assert [client.finished and client.finished.cached_tokens for client in siblings] == [12, 12]


@pytest.mark.parametrize("length", [11, 12, 13, 30])
def test_the_prompt_of_several_samples_is_computed_once(length: int) -> None:
    """All come at once; each of the others computes no more than what is in no full page, or the last page."""
    world = ready(step_tokens=8)
    prompt = list(range(1, length + 1))
    samples = [world.submit(prompt, 5, stops=()) for _ in range(4)]
    world.settle()
    found = [client.finished.cached_tokens for client in samples if client.finished]
    shared = (length - 1) // 4 * 4
    assert found == [0, shared, shared, shared]
    world.check_done()


def test_siblings_go_on_when_the_one_they_wait_for_is_aborted() -> None:
    world = ready(step_tokens=8)
    first = world.submit([*STEM, 1], 3)
    while world.kv_turn():
        pass
    world.submit([*STEM, 2], 3)
    assert (102 + 0, "held") in world.notes
    world.abort(first)
    world.settle()
    world.check_done()


def test_an_answer_that_comes_too_late_is_a_miss_and_its_pages_go_back() -> None:
    world = ready()
    world.submit(STEM, 3)
    world.settle()
    client = world.submit(STEM, 3)
    world.do(e.LookupExpired(world.lookups[0]))
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 0
    world.check_done()
    assert not world.kv.pinned


def test_a_block_that_kv_is_asked_about_is_not_named_before_it_has_answered() -> None:
    world = ready(extent=16)
    world.submit(STEM, 3)
    world.settle()
    world.submit(STEM, 8, stops=())
    world.do(e.LookupExpired(world.lookups[0]))
    for _ in range(8):  # blocks are computed while kv still owes the answer
        world.worker_turn(0)
    assert not any(isinstance(action, e.SealPages) for action in world.kv.inbox)
    world.settle()
    world.check_done()


def test_without_a_root_nothing_is_looked_for_and_nothing_is_named() -> None:
    world = ready()
    for _ in range(2):
        client = world.submit(STEM, 6, reuse=False)
        world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 0
    assert not world.kv.index


def test_a_block_is_asked_for_once_though_its_parent_must_be_asked_for_again() -> None:
    world = ready()
    world.submit(STEM, 3)
    world.settle()
    holder = world.submit([*STEM[:5], 30, 31], 20, stops=())
    while world.kv_turn():
        pass
    asker = world.submit(STEM, 3)  # finds the first block here, and asks for the others
    world.abort(asker)
    world.abort(holder)
    while world.worker_turn(0):
        pass  # nobody holds the first block any more
    world.submit(STEM, 3)
    assert [len(action.digests) // 16 for action in world.actions if isinstance(action, e.LookUp)] == [1]
    world.settle()
    world.check_done()


def test_a_duplicate_keeps_its_own_page_and_gives_it_back_uncached() -> None:
    world = ready()
    world.submit(STEM, 3)
    world.settle()
    client = world.submit(STEM, 3)
    world.do(e.LookupExpired(world.lookups[0]))  # it does not learn that kv has the blocks
    world.settle()
    assert client.tokens == client.expected
    assert len(world.kv.index) == 3, "one page per block"
    world.check_done()


@pytest.mark.parametrize(
    ("token_ns", "due_ms"), [(0, LOOKUP_MAX_MS), (1_000, LOOKUP_MIN_MS), (2_000_000, 24.0), (10**9, LOOKUP_MAX_MS)]
)
def test_an_answer_of_kv_is_waited_for_about_as_long_as_computing_would_take(token_ns: int, due_ms: float) -> None:
    """kv may be without a core for a while on a busy host. What nobody has computed yet is waited for longest."""
    world = ready()
    for tokens in range(1, 41) if token_ns else ():
        world.core.state.replicas[0].cost.observe(tokens, 0.0, tokens * token_ns)
    world.submit(STEM, 3)
    (asked,) = [action for action in world.actions if isinstance(action, e.LookUp)]
    assert asked.due_ms == pytest.approx(due_ms, rel=0.2)


def test_pages_that_kv_says_are_not_ours_are_computed_again() -> None:
    world = ready()
    client = world.submit(STEM, 30, stops=())
    for _ in range(6):
        world.worker_turn(0)
        while world.kv_turn():
            pass
    world.kv_down()
    while world.worker_turn(0):
        pass  # what is in flight still reads them
    assert client.finished is None, "it waits for pages"
    world.kv_up(lose=True)
    world.settle()
    assert client.tokens == client.expected


def on_disk(disk_us: int = 1000, **settings: object) -> World:
    """Three blocks of `STEM` that kv has on disk only; `disk_us` for each, or so it says."""
    world = ready(**settings)
    world.kv.disk, world.kv.disk_us = {}, disk_us
    world.submit(STEM, 3)
    world.settle()
    for page in list(world.kv.cached):
        world.kv.evict(page)
    return world


def waits(world: World) -> list[int]:
    return [action.wait_ms for action in world.actions if isinstance(action, e.LookUp)]


def hear(world: World) -> None:
    """kv handles one question, and its answer arrives."""
    world.kv_turn()
    world.kv_turn()


def test_pages_on_disk_are_brought_back_before_anything_is_computed() -> None:
    world = on_disk()
    client = world.submit(STEM, 3)
    hear(world)
    assert waits(world) == [4 * 3 + 20]  # no step was predicted yet: some times what kv says
    assert world.core.state.running == 0
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 12
    assert world.core.state.tally.disk_tokens == 12
    world.check_done()


def trained(world: World) -> World:
    """Enough steps were seen to know what computing takes: 1 ms a step and 0.01 ms a token."""
    world.submit([30, 31], 20, stops=())
    world.settle()
    assert world.core.state.replicas[0].cost.trusted
    return world


def test_computing_is_preferred_where_it_is_faster() -> None:
    world = trained(on_disk(disk_us=100_000))
    client = world.submit(STEM, 3)
    hear(world)
    assert not waits(world)
    assert world.core.state.running == 1
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 0


def test_the_disk_is_waited_for_no_longer_than_computing_takes() -> None:
    world = trained(on_disk(disk_us=100))
    world.submit(STEM, 3)
    hear(world)
    assert waits(world) == [2]  # 1.1 ms, rounded up


def test_a_disk_that_does_not_keep_its_word_is_not_waited_for() -> None:
    world = on_disk()
    client = world.submit(STEM, 3)
    hear(world)
    world.do(e.LookupExpired(world.lookups[0]))
    assert world.core.state.running == 1
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 0
    world.check_done()
    assert not world.kv.pinned, "what came too late goes back"


def test_what_is_there_in_time_is_used_and_the_rest_is_computed() -> None:
    world = on_disk()
    client = world.submit(STEM, 3)
    hear(world)
    assert world.kv.disk is not None
    world.kv.disk.pop(client.submit.digests[32:48])  # the third block is not read in time
    world.settle()
    assert client.finished is not None
    assert client.finished.cached_tokens == 8
    assert len(world.lookups) == 0


def test_others_go_first_while_one_waits_for_the_disk() -> None:
    world = on_disk(slots=1)
    waiting = world.submit(STEM, 3)
    hear(world)
    other = world.submit([20, 21, 22], 2)
    assert world.core.state.running == 1
    while other.finished is None:
        world.worker_turn(0)
    assert waiting.finished is None
    world.settle()
    assert waiting.finished is not None
    assert waiting.finished.cached_tokens == 12


def test_a_sibling_waits_for_the_same_read() -> None:
    world = on_disk()
    world.submit(STEM, 3)
    hear(world)
    sibling = world.submit([*STEM[:12], 20], 3)
    assert not waits(world)
    world.settle()
    assert sibling.finished is not None
    assert sibling.finished.cached_tokens == 12


def test_one_that_was_preempted_may_find_its_pages_on_disk() -> None:
    world = ready(capacity=9, slots=2, context=32)
    world.kv.disk = {}
    clients = [world.submit([*STEM, n], 14, stops=()) for n in (1, 20)]
    world.settle()
    assert world.core.state.tally.preemptions
    assert all(client.tokens == client.expected for client in clients)
    world.check_done()
