"""What a project and a key may keep: bounded whatever happens, the oldest first, and nobody else's."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.quota import Quota, Shelves
from ingress.records import Opening
from ingress.replay import Keeping, Replay, ReplayStore

QUOTA = Quota(6, 1000)
sizes = st.integers(0, 400)
whose = st.tuples(st.sampled_from(["p", "q"]), st.sampled_from(["a", "b", "c"]))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(whose, sizes, st.integers(0, 3)), max_size=60))
def test_nobody_has_more_than_a_quota_and_only_the_oldest_of_their_own_go(
    puts: list[tuple[tuple[str, str], int, int]],
) -> None:
    shelves = Shelves(QUOTA)
    kept: dict[str, tuple[str, str, int]] = {}
    for number, ((tenant, owner), size, dropped) in enumerate(puts):
        if dropped == 0 and kept:  # its time is over, or its owner deletes it
            response = next(iter(kept))
            shelves.drop(response, *kept.pop(response)[:2])
        name = f"r{number}"
        gone = shelves.put(name, tenant, owner, size)
        assert len(set(gone)) == len(gone)
        assert name not in gone
        kept[name] = (tenant, owner, size)
        for response in gone:
            assert kept[response][0] == tenant
            older = [one for one, (t, o, _) in kept.items() if (t, o) == (tenant, kept[response][1])]
            assert older[0] == response, "an older one of the same key stays"
            shelves.drop(response, *kept.pop(response)[:2])
        for holder, quota in (((tenant,), QUOTA), ((tenant, owner), Quota(3, 500))):
            mine = [its for t, o, its in kept.values() if (t, o)[: len(holder)] == holder]
            assert len(mine) <= quota.responses
            assert sum(mine) <= quota.bytes or len(mine) == 1


def stored(store: ReplayStore, name: str, tenant: str, owner: str, size: int, *, batch: bool = False) -> Replay:
    replay = store.create(name, owner, lambda: None, 1)
    replay.opening = Opening("responses", b"x" * size, tenant, owner, 0, name, 0, "", (1,), (), 0, batch=batch)
    replay.keeping = Keeping(stored=True)
    replay.append(b"y" * 10)
    store.close(replay, 2)
    return replay


def test_a_store_lets_the_oldest_of_a_project_go_and_counts_calls() -> None:
    store = ReplayStore(60, 3600, quota=Quota(100, 1000))
    other = stored(store, "other", "q", "x", 100)
    line = stored(store, "line", "p", "a", 10_000, batch=True)
    for number in range(3):
        stored(store, f"r{number}", "p", "a", 190)
    assert store.get("r0", "a") is None  # 600 bytes are more than a key may have
    assert store.get("r1", "a") is not None
    assert store.get("other", "x") is other
    assert store.get("line", "a") is line
    huge = stored(store, "huge", "p", "a", 5000)
    assert store.get("huge", "a") is huge
    assert store.get("r2", "a") is None
    store.drop(huge)
    stored(store, "r3", "p", "a", 190)
    stored(store, "r4", "p", "a", 190)
    assert store.get("r3", "a") is not None  # what was deleted counts no longer


def test_what_is_not_stored_or_not_complete_does_not_count() -> None:
    store = ReplayStore(60, 3600, quota=Quota(2, 10**6))
    running = store.create("running", "a", lambda: None, 1)
    running.opening = Opening("responses", b"", "p", "a", 0, "running", 0, "", (1,), (), 0)
    running.keeping = Keeping(stored=True, unattended=True)
    for number in range(3):
        stored(store, f"r{number}", "p", "a", 1)
    assert store.get("running", "a") is running
    assert [store.get(f"r{number}", "a") is None for number in range(3)] == [True, True, False]
    plain = store.create("plain", "a", lambda: None, 1)
    plain.opening = running.opening
    store.close(plain, 3)
    assert store.get("r2", "a") is not None
    assert store.get("plain", "a") is plain
