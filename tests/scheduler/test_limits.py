"""Limits at run time: bounds, what holds after a restart, and what the process says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import World

from bus.config import ModelConfig
from bus.messages.control import LimitValues
from scheduler.core import events as e
from scheduler.limits import BOUNDS, Keeper, Unfit, checked, configured, difference, merged

BASE = configured(ModelConfig(name="m", source="path:/m"))
MOST = LimitValues(64, 512)
ANY = st.builds(
    LimitValues,
    slots=st.none() | st.integers(-1, 70),
    step_tokens=st.none() | st.integers(0, 600),
    inter_token_target_ms=st.none() | st.floats(-1, 70_000),
    queue_requests=st.none() | st.integers(0, 10),
)


@given(ANY)
def test_what_passes_is_within_bounds_and_what_does_not_is_named(wanted: LimitValues) -> None:
    bad = []
    for name, (low, high) in BOUNDS.items():
        value = getattr(wanted, name)
        if value is not None and not low <= value <= min(high, getattr(MOST, name) or high):
            bad.append(name)
    if not bad:
        assert checked(wanted, MOST) == wanted
        return
    with pytest.raises(Unfit, match=f"^{bad[0]} = "):
        checked(wanted, MOST)


def test_more_than_the_workers_have_room_for_says_what_to_do() -> None:
    with pytest.raises(Unfit, match=r"slots = 65: 1 to 64 can be; the workers have no room for more: change \[\[model"):
        checked(LimitValues(slots=65), MOST)


@given(ANY)
def test_what_is_not_meant_stays(wanted: LimitValues) -> None:
    now = merged(BASE, wanted)
    for name in BOUNDS:
        asked = getattr(wanted, name)
        assert getattr(now, name) == (getattr(BASE, name) if asked is None else asked)


def test_limits_outlive_the_process_but_not_a_change_of_their_configuration(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "scheduler@m")
    assert keeper.load(BASE) == BASE
    now = merged(BASE, LimitValues(slots=8, inter_token_target_ms=40.5))
    assert keeper.save(now, BASE) == ""
    assert keeper.load(BASE) == now
    changed = merged(BASE, LimitValues(slots=32))
    assert keeper.load(changed) == merged(changed, LimitValues(inter_token_target_ms=40.5))
    assert keeper.save(BASE, BASE) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"configured":{},"now":{"slots":3}}', b'{"configured":{"slots":64.0},"now":{"slots":-3}}']
)
def test_a_file_that_makes_no_sense_is_nobodys_limits(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scheduler@m.limits.json").write_bytes(content)
    assert Keeper(tmp_path, "scheduler@m").load(BASE) == BASE


def test_limits_that_cannot_be_kept_hold_all_the_same_and_it_is_told(tmp_path: Path) -> None:
    said = Keeper(tmp_path / "gone", "scheduler@m").save(merged(BASE, LimitValues(slots=8)), BASE)
    assert said == "lost when this scheduler restarts: No such file or directory"


def test_status_says_what_differs() -> None:
    assert difference(BASE, BASE) == ""
    now = merged(BASE, LimitValues(slots=8, inter_token_target_ms=100.0))
    assert difference(now, BASE) == "slots=8 (configured 64), inter_token_target_ms=100 (configured 250)"


def test_a_lower_limit_ends_nobody_and_lets_nobody_in_until_there_is_room() -> None:
    world = World(slots=4, capacity=60)
    world.start()
    clients = [world.submit([n, 2, 3], 6, reuse=False) for n in range(6)]
    while world.kv_turn():
        pass
    assert world.core.state.running == 4
    world.do(e.Limited(1, 64, 0.0, 20, 400))
    assert world.core.state.running == 4
    seen = set()
    while world.core.state.running:
        world.worker_turn(0)
        while world.kv_turn():
            pass
        seen.add(world.core.state.running)
    assert max(seen) == 4
    assert all(client.tokens == client.expected for client in clients)


def test_a_higher_limit_lets_in_at_once() -> None:
    world = World(slots=4, capacity=60)
    world.start()
    world.do(e.Limited(1, 64, 0.0, 20, 400))
    for n in range(4):
        world.submit([n, 2, 3], 6, reuse=False)
    while world.kv_turn():
        pass
    assert world.core.state.running == 1
    world.do(e.Limited(3, 64, 0.0, 20, 400))
    assert world.core.state.running == 3
