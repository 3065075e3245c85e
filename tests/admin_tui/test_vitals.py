"""The metrics process is silent: stale at first, then what the processes say themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.widgets import ContentSwitcher

from admin_tui.acted import Vitals
from admin_tui.app import HeadraceTop
from admin_tui.recording import Recorded
from admin_tui.views import VIEWS
from admin_tui.world import LinkDown, World
from bus.messages.control import Status

SCHEDULER = Status(0, "scheduler@smollm2", "scheduler", 77, "draining", 5, 12.0, 3, 0.5, "4 running, 2 waiting")
NEW = Status(0, "worker@new.0.0", "worker", 78, "ready", 6, 3.0, 0)


def silent(demo: list[Recorded]) -> list[Recorded]:
    t = demo[-1].t
    return [*demo, Recorded(t, LinkDown("silent")), Recorded(t, Vitals((SCHEDULER, NEW)))]


def test_processes_say_how_they_are_and_who_does_not_is_late(demo: list[Recorded]) -> None:
    world = World()
    for recorded in silent(demo):
        world.apply(recorded.event, 1)
    assert world.condition("scheduler@smollm2") == "draining"
    assert world.condition("worker@new.0.0") == "ready"
    assert world.condition("metrics@host") == "late"
    assert "worker@new.0.0" in world.names()
    world.apply(Vitals(()), 2)
    assert world.condition("scheduler@smollm2") == "ready"
    assert "worker@new.0.0" not in world.names()


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_every_screen_can_be_drawn_of_it(
    make_app: Callable[..., HeadraceTop], demo: list[Recorded], size: tuple[int, int]
) -> None:
    app = make_app(silent(demo))
    async with app.run_test(size=size) as pilot:
        for view in VIEWS:
            await pilot.press(view.key)
            await pilot.pause()
            assert app.query_one(ContentSwitcher).current == view.id
        await pilot.press("2")
        await pilot.pause()
        drawn = str(app.query_one("#alarm").render())
        assert "Fleet asks processes themselves" in drawn or size[0] == 80
