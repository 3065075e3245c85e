"""Models whose layers, or some of them, see only a window: what a long answer holds does not grow with all of it."""

from __future__ import annotations

import pytest
from simulated import World

from bus.packed import unpack_u32
from scheduler.core import events as e

PROMPT = list(range(10, 23))


def ready(**settings: object) -> World:
    world = World(**({"capacity": 200, "slots": 4, "context": 400, "page_tokens": 4} | settings))  # type: ignore[arg-type]
    world.start()
    while world.kv_turn():
        pass
    return world


def most_pages(world: World) -> int:
    """Let everything run to its end; the most pages that requests held at once."""
    most = 0
    for _ in range(2000):
        while world.kv_turn():
            pass
        for page in list(world.kv.cached):  # what is let go of is somebody else's at once
            world.kv.evict(page)
        moved = [world.worker_turn(number) for number in world.workers]
        most = max(most, sum(request.pages for request in world.core.state.requests.values()))
        if not any(moved) and world.core.idle:
            return most
    raise AssertionError("it does not end")


@pytest.mark.parametrize(("window", "fold", "least", "most"), [(0, 0, 103, 103), (8, 0, 1, 5), (8, 4, 26, 32)])
@pytest.mark.parametrize("reuse", [True, False])
def test_a_long_answer_holds_its_window_and_what_other_layers_see(
    window: int, fold: int, least: int, most: int, reuse: bool
) -> None:
    """413 tokens in pages of four: a window of eight takes up to three blocks, a fold the place of four."""
    world = ready(window=window, fold=fold, context=500)
    client = world.submit(PROMPT, 400, stops=(), reuse=reuse)
    assert least <= most_pages(world) <= most
    assert client.tokens == client.expected
    world.check_done()


def test_what_was_let_go_of_is_found_by_the_next_turn() -> None:
    world = ready(window=8, fold=4)
    first = world.submit(PROMPT, 80, stops=())
    world.settle()
    second = world.submit(PROMPT + first.tokens, 60, stops=())
    world.settle()
    assert second.finished is not None
    assert second.finished.cached_tokens == (len(PROMPT) + 80 - 1) // 4 * 4
    world.check_done()


def test_blocks_that_others_use_are_not_folded_until_they_are_alone() -> None:
    world = ready(window=8, fold=4)
    stem = list(range(60))
    clients = [world.submit([*stem, n], tokens, stops=()) for n, tokens in ((1, 100), (2, 30))]
    while clients[1].finished is None:
        world.turn(1)
        if clients[1].tokens:
            assert all(request.behind.planned < 15 for request in world.core.state.requests.values())
    assert most_pages(world) < 33 < (61 + 100) // 4
    assert [client.tokens for client in clients] == [client.expected for client in clients]
    world.check_done()


@pytest.mark.parametrize("fold", [0, 4])
def test_whoever_lost_its_worker_finds_in_kv_what_it_had_let_go_of(fold: int) -> None:
    world = ready(window=8, fold=fold)
    client = world.submit(PROMPT, 120, stops=())
    while len(client.tokens) < 90:
        world.turn(1)
    world.kill(0)
    world.revive(0)
    world.sent[0].clear()
    world.settle()
    (opened,) = [opened for plan in world.sent[0] for opened in plan.opens]
    assert opened.computed >= 96
    assert client.tokens == client.expected
    world.check_done()


def test_folds_of_a_kv_that_starts_over_are_leases_that_it_is_told_of() -> None:
    world = ready(window=8, fold=4)
    client = world.submit(PROMPT, 120, stops=())
    while len(client.tokens) < 60:
        world.turn(1)
    (request,) = world.core.state.requests.values()
    folds = set(request.behind.folds)
    assert folds
    world.kv_down()
    world.kv_up(forget=True)
    (told,) = [action for action in world.actions if isinstance(action, e.ReassertPages)]
    assert folds <= set(unpack_u32(told.leases).tolist())
    world.settle()
    assert client.tokens == client.expected
    world.check_done()
