"""From a name to the screen that shows it; and, with keys, from screen to screen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher

from admin_tui.app import HeadraceTop
from admin_tui.links import Link, more_about, to_request, to_requests_of, to_subject
from admin_tui.messages import Jump
from admin_tui.recording import Recorded
from admin_tui.table import LiveTable
from admin_tui.world import World

SIZE = (120, 34)
LATE = "worker@smollm2.1.0"


@pytest.fixture
def world(demo: list[Recorded]) -> World:
    world = World()
    for recorded in demo:
        world.apply(recorded.event, 1)
    return world


@pytest.mark.parametrize(
    ("process", "link"),
    [
        ("worker@qwen2.5-coder-0.5b.1.0", Link("requests", filter="model=qwen2.5-coder-0.5b replica=1")),
        ("scheduler@smollm2", Link("requests", filter="model=smollm2")),
        ("kv@host", Link("requests")),
        ("worker@odd", Link("requests")),
        ("", Link("requests")),
    ],
)
def test_requests_of_a_process(process: str, link: Link) -> None:
    assert to_requests_of(process) == link


def test_more_about_a_process_is_on_another_screen() -> None:
    assert more_about("scheduler@smollm2") == Link("scheduler", "smollm2")
    assert more_about(LATE) == Link("host", LATE)
    assert more_about("kv@host") == Link("kv")
    assert more_about("ingress@1") == Link("bus", filter="owner=ingress@1")


def test_a_subject_is_a_process_a_model_a_request_or_nothing(world: World) -> None:
    assert to_subject(world, LATE) == Link("fleet", LATE)
    assert to_subject(world, "smollm2") == Link("models", "smollm2")
    request = world.requests[0].request
    assert to_subject(world, f"{request:x}") == to_request(request)
    assert to_subject(world, "ffffffffffffff") is None
    assert to_subject(world, "nonsense \x1b") is None


async def press(pilot: Pilot[None], *keys: str) -> None:
    await pilot.pause()
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


def where(app: HeadraceTop) -> tuple[str | None, str | None]:
    """The screen in view, and the row under the cursor of its first table."""
    switcher = app.query_one(ContentSwitcher)
    tables = switcher.visible_content.query(LiveTable) if switcher.visible_content else []
    return switcher.current, next((table.current() for table in tables), None)


async def test_keys_lead_from_a_thing_to_its_screen(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "enter")
        assert where(app) == ("fleet", LATE)
        await press(pilot, "enter")
        assert where(app) == ("host", LATE)
        await press(pilot, "enter")
        assert where(app) == ("fleet", LATE)
        await press(pilot, "t")
        view, row = where(app)
        assert view == "requests"
        assert row is not None
        table = app.query_one("#requests-table", LiveTable)
        assert table.look.filter == "model=smollm2 replica=1"
        await press(pilot, "g")
        assert where(app) == ("fleet", LATE)
        await press(pilot, "minus")
        assert where(app) == ("requests", row)


async def test_a_lease_leads_to_its_owner_and_a_prefix_to_requests(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "6", "enter")
        assert where(app)[0] == "requests"
        filtered = app.query_one("#requests-table", LiveTable).look.filter
        assert "cached>=" in filtered
        await press(pilot, "6", "tab", "enter")
        view, row = where(app)
        assert view == "fleet"
        assert row is not None
        assert row.startswith("scheduler@")


async def test_a_step_leads_to_its_scheduler_and_models_can_be_looked_at_in_turn(
    make_app: Callable[..., HeadraceTop],
) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "5", "m", "g")
        assert where(app) == ("fleet", "scheduler@smollm2")
        await press(pilot, "5", "m", "g")
        assert where(app) == ("fleet", "scheduler@qwen2.5-coder-0.5b")


async def test_a_jump_lifts_a_filter_that_hides_what_it_is_to(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2", "slash", *"kv", "enter", "1", "enter")
        assert where(app) == ("fleet", LATE)
        assert app.query_one("#fleet-table", LiveTable).look.filter == ""


async def test_what_is_gone_is_said(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        app.post_message(Jump(Link("fleet", "worker@gone.0.0")))
        await pilot.pause()
        assert [n.message for n in app._notifications] == ["worker@gone.0.0 is not there"]
