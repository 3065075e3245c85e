"""KV that is there already: found here, found in kv, or about to be computed by a sibling."""

from __future__ import annotations

from simulated import World

from scheduler.core import events as e

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
