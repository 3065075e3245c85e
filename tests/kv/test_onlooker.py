"""The arena as an onlooker sees it: the map agrees with the pages, coarse or fine; who holds what, also after death."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pageclients import LARGE, ROOT, SMALL, Clients, digests

from bus.messages.pages import Done, Fenced
from bus.messages.vitals import MAP_STATES
from kv import onlooker
from kv.layout import LOST
from kv.onlooker import Onlooker, arena_map


def spelled(states: bytes) -> list[str]:
    return [MAP_STATES[state] for state in states]


def by_slab_counted_page_by_page(clients: Clients) -> list[tuple[int, int, int, int, int, int]]:
    """(pool, slab, free, cached, pinned, leased), from the pages themselves."""
    found = []
    for number, pool in sorted(clients.core.pools.items()):
        for slab in pool.slabs:
            cells = pool.grid.cells_of(slab)
            sealed = [pool.sealed[cell] for cell in cells if cell in pool.sealed]
            pinned, leased = sum(1 for page in sealed if page.pins), sum(1 for cell in cells if cell in pool.leased)
            found.append((number, slab, len(cells) - len(sealed) - leased, len(sealed) - pinned, pinned, leased))
    return found


def a_bit_of_everything(slabs: int = 6) -> Clients:
    clients = Clients(slabs=slabs)
    scheduler, other = clients.scheduler(), clients.scheduler("scheduler@b")
    small, large = clients.open(scheduler), clients.open(other, LARGE, b"s" * 16)
    clients.cache(scheduler, small, digests(20), ROOT)
    held = clients.lease(scheduler, small, 3)
    clients.seal(scheduler, small, held[:2], digests(2, seed=1), ROOT)
    clients.lease(other, large, 3)
    return clients


@given(
    st.lists(st.tuples(st.sampled_from(["cache", "lease", "seal", "find", "release"]), st.integers(1, 9)), max_size=30)
)
def test_counts_by_slab_are_those_of_the_pages(steps: list[tuple[str, int]]) -> None:
    clients = Clients(slabs=3)
    scheduler = clients.scheduler()
    pool = clients.open(scheduler)
    held: list[tuple[int, int]] = []
    for seed, (what, count) in enumerate(steps):
        if what == "cache":
            pages = clients.lease(scheduler, pool, count)
            clients.seal(scheduler, pool, pages, digests(len(pages), seed), ROOT)
            clients.release(scheduler, pool, pages)
        elif what == "lease":
            held += clients.lease(scheduler, pool, count)
        elif what == "seal":
            leased = [page for page in held if page[0] in clients.core.pools[1].leased][:count]
            clients.seal(scheduler, pool, leased, digests(len(leased), 1000 + seed), ROOT)
        elif what == "find":
            held += clients.find(scheduler, pool, digests(count, max(0, seed - 1)))
        else:
            clients.release(scheduler, pool, held[:count])
            del held[:count]
    known = [(number, *row) for number, each in clients.core.pools.items() for row in each.by_slab()]
    assert sorted(known) == by_slab_counted_page_by_page(clients)
    clients.killed_and_made_again(settling=False)
    known = [(number, *row) for number, each in clients.core.pools.items() for row in each.by_slab()]
    assert sorted(known) == by_slab_counted_page_by_page(clients)


def test_a_fine_map_shows_every_page_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "FINE_CELLS", 1 << 20)  # as fine as the largest pages let it be
    clients = a_bit_of_everything()
    states, used, cell_bytes = arena_map(clients.core)
    assert cell_bytes == 32 << 10  # two to a slab: those of LARGE are 24 KiB
    words = spelled(states)
    for pool in clients.core.pools.values():
        for cells, word in ((pool.sealed, ("cached", "pinned")), (pool.leased, ("leased", "cached", "pinned"))):
            for cell in cells:
                at = cell * pool.grid.stride // cell_bytes
                assert words[at] in word
                assert used[at] > 0
    assert words.count("leased") >= 2
    assert words.count("none") == 2 * clients.core.slabs.free


def test_a_coarse_map_is_of_slabs_and_says_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "FEW_PAGES", 0)
    clients = a_bit_of_everything()
    states, used, cell_bytes = arena_map(clients.core)
    rows = {slab: counts for _, slab, *counts in by_slab_counted_page_by_page(clients)}
    assert cell_bytes == clients.layout.slab_bytes
    for slab, (word, share) in enumerate(zip(spelled(states), used, strict=True)):
        if slab not in rows:
            assert (word, share) == ("none", 0)
            continue
        free, *in_use = rows[slab]
        assert share == -(-255 * sum(in_use) // (free + sum(in_use)))
        if sum(in_use):
            assert in_use[("cached", "pinned", "leased").index(word)] == max(in_use)
        else:
            assert word == "free"


@given(st.integers(1, 40), st.integers(1, 64))
@settings(max_examples=30)
def test_a_map_has_only_so_many_cells_and_covers_the_arena(slabs: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onlooker, "MAX_CELLS", most)
        patch.setattr(onlooker, "FEW_PAGES", -1)
        clients = a_bit_of_everything(max(slabs, 5))
        states, used, cell_bytes = arena_map(clients.core)
        assert len(states) == len(used) <= most
        assert (len(states) - 1) * cell_bytes < clients.layout.data_bytes <= len(states) * cell_bytes


def test_a_slab_that_is_out_of_use_shows() -> None:
    clients = a_bit_of_everything()
    clients.core.slabs._tables.slab_pool[5] = LOST
    states, used, cell_bytes = arena_map(clients.core)
    parts = clients.layout.slab_bytes // cell_bytes
    assert set(spelled(states)[5 * parts :]) == {"lost"}
    assert set(used[5 * parts :]) == {255}


@pytest.mark.parametrize("few", [0, onlooker.FEW_PAGES], ids=["coarse", "fine"])
def test_pages_of_one_who_died_are_told_with_who_may_still_write_them(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onlooker, "FEW_PAGES", few)
    clients = Clients()
    look = Onlooker(clients.core, "kv@host")
    scheduler, worker = clients.scheduler(), clients.worker()
    for session in (scheduler, worker):
        look.attached(session.name)
    pool = clients.open(scheduler)
    clients.cache(scheduler, pool, digests(2), ROOT)
    clients.find(scheduler, pool, digests(2))
    clients.lease(scheduler, pool, 3)
    before = look.view()
    assert [(h.name, h.epoch, h.leased, h.pinned, h.stale) for h in before.holders] == [
        ("scheduler@a", 1, 3, 2, False),
        ("worker@a.0.0", 1, 0, 0, False),
    ]
    assert before.pools[0].openers == ("scheduler@a",)
    assert before.pools[0].capacity == 4 * 16
    clients.core.end(scheduler)
    clients.scheduler(epoch=2)
    after = look.view()
    assert [(h.name, h.epoch, h.leased, h.stale, h.writers) for h in after.holders if h.leased] == [
        ("scheduler@a", 1, 3, True, ("worker@a.0.0",))
    ]
    assert "quarantined" in spelled(after.map)
    assert after.pools[0].quarantined == 3
    clients.ask(worker, Fenced(clients.next(), "scheduler@a", 2), Done)
    assert not [h for h in look.view().holders if h.stale]


def test_what_nobody_has_named_is_told_by_its_number() -> None:
    clients = Clients()
    scheduler = clients.scheduler()
    clients.worker()
    clients.lease(scheduler, clients.open(scheduler), 1)
    clients.core.end(scheduler)
    (gone,) = [holder for holder in Onlooker(clients.core, "kv@host").view().holders if holder.stale]
    assert gone.name.startswith("unknown ")
    assert SMALL.page_bytes == 4096
