"""Orders: the right message at the right door, and an honest warning before."""

from __future__ import annotations

import msgspec
import pytest

from admin_tui.actions import Errand, Order, Refusal, errand
from admin_tui.blast import caution
from admin_tui.recording import Recorded
from admin_tui.world import World
from bus.messages.control import CancelRequest, Drain, Restart, Undrain


@pytest.fixture
def world(demo: list[Recorded]) -> World:
    world = World()
    for recorded in demo:
        world.apply(recorded.event, 1)
    return world


def test_a_supervisor_gets_orders_about_others_by_name() -> None:
    order = Order("drain", "worker@m.0.0")
    assert errand(order, 5, supervised=True) == Errand("supervisor@host", Drain(5, "worker@m.0.0", 120.0))
    assert errand(order._replace(verb="undrain"), 5, supervised=True) == Errand(
        "supervisor@host", Undrain(5, "worker@m.0.0")
    )
    assert errand(order._replace(verb="restart"), 5, supervised=True) == Errand(
        "supervisor@host", Restart(5, "worker@m.0.0", 120.0)
    )


def test_a_kill_is_a_restart_that_does_not_wait() -> None:
    what = errand(Order("kill", "kv@host"), 1, supervised=True)
    assert isinstance(what, Errand)
    assert what.message == Restart(1, "kv@host", 0.0)


def test_without_a_supervisor_a_process_is_drained_at_its_own_door_and_systemd_does_the_rest() -> None:
    what = errand(Order("drain", "kv@host"), 1, supervised=False)
    assert isinstance(what, Errand)
    assert what.door_of == "kv@host"
    refused = errand(Order("restart", "kv@host"), 1, supervised=False)
    assert isinstance(refused, Refusal)
    assert "systemctl restart headrace-kv@host" in refused.reason
    assert isinstance(errand(Order("kill", "kv@host"), 1, supervised=False), Refusal)


def test_a_request_is_cancelled_at_its_scheduler() -> None:
    what = errand(Order("cancel", "m", 77), 3, supervised=True)
    assert what == Errand("scheduler@m", CancelRequest(3, 77))


def test_the_blast_radius_of_a_worker_counts_its_requests_and_where_they_go(world: World) -> None:
    said = "\n".join(caution(Order("restart", "worker@smollm2.1.0"), world).lines)
    hit = sum(live.model == "smollm2" and live.replica == 1 for live in world.requests)
    assert hit > 0
    assert f"Requests on this replica: {hit}" in said
    assert "at 1 other replica." in said
    alone = "\n".join(caution(Order("restart", "worker@qwen2.5-coder-0.5b.0.0"), world).lines)
    assert "here when it is back" in alone


def test_only_a_kill_asks_for_the_name(world: World) -> None:
    for verb in ("drain", "undrain", "restart", "kill"):
        assert caution(Order(verb, "kv@host"), world).type_name == (verb == "kill")  # type: ignore[arg-type]


def test_a_cancelled_request_is_told_with_what_it_has(world: World) -> None:
    live = world.requests[0]
    said = caution(Order("cancel", live.model, live.request), world)
    assert f"{live.generated_tokens} tokens so far" in said.lines[0]
    gone = caution(Order("cancel", live.model, 1), world)
    assert "not in a scheduler's hands" in gone.lines[0]


def test_every_role_has_a_warning(world: World) -> None:
    for name in (*world.names(), "supervisor@host"):
        assert len(caution(Order("drain", name), world).lines) >= 2, name


def test_orders_are_messages_of_the_control_channel() -> None:
    what = errand(Order("cancel", "m", 2**63), 1, supervised=False)
    assert isinstance(what, Errand)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(what.message))[0] == 17
