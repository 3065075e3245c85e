"""Dialogs, command line, palette, roles and remapped keys on the real application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_app import LATE, Obedient, press, select
from textual.pilot import Pilot
from textual.widgets import Button, ContentSwitcher, Input

from admin_tui.acted import Actions, Logged
from admin_tui.actions import Order
from admin_tui.app import HeadraceTop
from admin_tui.chrome.command import CommandLine
from admin_tui.dialogs.confirm import ConfirmScreen
from admin_tui.dialogs.limit import LimitScreen
from admin_tui.dialogs.palette import PaletteScreen
from admin_tui.keepsakes import Keepsakes, SavedView
from admin_tui.recording import Recorded
from admin_tui.table import LiveTable
from bus.actionlog import ActionRecord
from bus.logread.records import LogRecord
from bus.messages.control import Access, LimitValues

SIZE = (120, 34)
WHO = "root and members of group headrace-admin"


@pytest.fixture
def feed(demo: list[Recorded]) -> Obedient:
    return Obedient(demo)


@pytest.fixture
def start(feed: Obedient) -> Callable[..., HeadraceTop]:
    def make(**options: object) -> HeadraceTop:
        return HeadraceTop(lambda: feed, wall_clock=lambda: "12:00:00", host="gpu-07", **options)  # type: ignore[arg-type]

    return make


async def type_command(pilot: Pilot[None], line: str) -> None:
    await press(pilot, "colon")
    pilot.app.query_one(CommandLine).value = line
    await press(pilot, "enter")


async def test_a_reason_goes_with_the_order_and_enter_in_it_gives_nothing(
    start: Callable[..., HeadraceTop], feed: Obedient
) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, LATE)
        await press(pilot, "D", "shift+tab", *"disk", "enter")
        assert isinstance(app.screen, ConfirmScreen)
        assert feed.orders == []
        assert app.focused is not None
        assert app.focused.id == "cancel"
        await press(pilot, "tab", "enter")
        assert feed.orders == [Order("drain", LATE, reason="disk")]


async def test_a_command_that_acts_is_asked_about_and_cancel_is_the_default(
    start: Callable[..., HeadraceTop], feed: Obedient
) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await type_command(pilot, f"drain {LATE} --deadline 30s --reason 'new disk'")
        assert isinstance(app.screen, ConfirmScreen)
        assert app.screen.query_one("#confirm-reason", Input).value == "new disk"
        await press(pilot, "enter")
        assert feed.orders == []
        await type_command(pilot, f"drain {LATE} --deadline 30s --reason 'new disk'")
        await press(pilot, "tab", "enter")
        assert feed.orders == [Order("drain", LATE, reason="new disk", seconds=30.0)]


async def test_the_last_replica_is_not_drained_without_its_name(
    start: Callable[..., HeadraceTop], feed: Obedient
) -> None:
    last = "worker@qwen2.5-coder-0.5b.0.0"
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await type_command(pilot, f"drain {last}")
        assert app.screen.query_one("#act", Button).disabled
        app.screen.query_one("#confirm-name", Input).value = last
        await pilot.pause()
        await press(pilot, "enter")
        assert feed.orders == [Order("drain", last)]


async def test_marked_processes_are_asked_about_one_after_the_other(
    start: Callable[..., HeadraceTop], feed: Obedient
) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2", "space", "space", "R")
        asked = []
        while isinstance(app.screen, ConfirmScreen):
            asked.append(app.screen._order.target)
            await press(pilot, "tab", "enter")
        assert [order.target for order in feed.orders] == asked
        assert len(asked) == 2
        await press(pilot, "R", "escape")  # who does not mean the first does not mean the others
        assert not isinstance(app.screen, ConfirmScreen)
        assert len(feed.orders) == 2


async def test_commands_show_screens_and_filters_and_history_comes_back(
    start: Callable[..., HeadraceTop], tmp_path: Path
) -> None:
    app = start(keepsakes=Keepsakes(tmp_path))
    async with app.run_test(size=SIZE) as pilot:
        await type_command(pilot, "fleet unit=worker")
        assert app.query_one(ContentSwitcher).current == "fleet"
        assert {row.key.split("@")[0] for row in app.query_one("#fleet-table", LiveTable).rows} == {"worker"}
        await type_command(pilot, "save workers")
        await type_command(pilot, "pulse")
        await type_command(pilot, "view workers")
        assert app.query_one(ContentSwitcher).current == "fleet"
        await press(pilot, "colon", "up", "up")
        assert app.query_one(CommandLine).value == "pulse"
        await press(pilot, "down", "down", "up", "escape")
        await type_command(pilot, "nonsense")
    again = Keepsakes(tmp_path)
    assert again.history == ["fleet unit=worker", "save workers", "pulse", "view workers", "nonsense"]
    assert again.views == {"workers": SavedView("fleet", "unit=worker", "unit")}


async def test_tab_completes_as_far_as_it_is_certain(start: Callable[..., HeadraceTop]) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "colon", *"drain sche", "tab")
        assert app.query_one(CommandLine).value == "drain scheduler@"
        await press(pilot, "s", "tab")
        assert app.query_one(CommandLine).value == "drain scheduler@smollm2"


async def test_the_palette_finds_by_words_and_asks(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "ctrl+p")
        assert isinstance(app.screen, PaletteScreen)
        await press(pilot, *"kill 1.0", "enter")
        assert isinstance(app.screen, ConfirmScreen)
        assert app.screen._order == Order("kill", LATE)
        await press(pilot, "escape", "ctrl+p", *"bus", "enter")
        assert app.query_one(ContentSwitcher).current == "bus"
        await press(pilot, "ctrl+p", "down", "up", "escape")
        assert not isinstance(app.screen, PaletteScreen)
        assert feed.orders == []


async def test_limits_are_changed_in_two_dialogs(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "7", "L")
        assert isinstance(app.screen, LimitScreen)
        model = app.screen._model
        app.screen.query_one("#limit-slots", Input).value = "four"
        app.screen.query_one("#act", Button).press()
        await pilot.pause()
        assert isinstance(app.screen, LimitScreen)  # that is no number
        app.screen.query_one("#limit-slots", Input).value = "4"
        app.screen.query_one("#act", Button).press()
        await pilot.pause()
        await pilot.pause()
        assert isinstance(app.screen, ConfirmScreen)
        assert app.focused is not None
        assert app.focused.id == "cancel"
        await press(pilot, "tab", "enter")
        assert feed.orders == [Order("limit", model, limits=LimitValues(slots=4))]


async def test_who_may_only_look_is_offered_nothing_else(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        feed._on_event(Access(0, "viewer", "eve", WHO))
        for keys in (["2", "D", "K", "R", "U", "L", "Y"], ["4", "X"], ["0", "A", "Z", "E"]):
            for key in keys:
                await press(pilot, key)
                assert not isinstance(app.screen, ConfirmScreen | LimitScreen), key
        await type_command(pilot, f"drain {LATE}")
        assert not isinstance(app.screen, ConfirmScreen)
        assert [n.message for n in app._notifications] == [f"you may look and not act: {WHO} may"]
        assert feed.orders == []


async def test_a_finding_is_acknowledged_and_silenced(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "0", "A", "shift+tab", *"mine", "enter", "tab", "enter")
        await press(pilot, "Z", "tab", "enter", "E", "tab", "enter")
        (first, second, third) = feed.orders
        assert (first.verb, first.reason) == ("acknowledge", "mine")
        assert (second.verb, second.seconds, second.deadline_s()) == ("silence", None, 3600.0)
        assert (third.verb, third.deadline_s()) == ("silence", 0.0)
        assert {(order.code, order.target) for order in feed.orders} == {(first.code, first.target)}


async def test_remapped_keys_act_and_the_old_ones_do_not(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start(keymap={"fleet.drain": "W", "view.fleet": "f2"})
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "f2")
        assert app.query_one(ContentSwitcher).current == "fleet"
        await press(pilot, "D")
        assert not isinstance(app.screen, ConfirmScreen)
        await press(pilot, "W")
        assert isinstance(app.screen, ConfirmScreen)
        await press(pilot, "escape")
        assert ("W", "drain") in app._keys()
    assert feed.orders == []


RECORDS = tuple(
    LogRecord(1000.0 + n, ("info", "warning", "error")[n % 3], ("kv@host", "worker@m.0.0")[n % 2], f"line {n}"  # type: ignore[arg-type]
              + (" request=1f" if n == 7 else ""), (), "1f" if n == 7 else "")
    for n in range(100)
)  # fmt: skip


async def test_logs_are_filtered_held_and_followed(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await press(pilot, "9")
        feed._on_event(Logged(RECORDS, "journal", "", 3))
        app._refresh()
        view = app.query_one("#logs")
        assert len(view._records) == 100
        await press(pilot, "slash", *"unit=worker level=error", "enter")
        assert {(r.unit, r.level) for r in view._records} == {("worker@m.0.0", "error")}
        await press(pilot, "escape", "slash", *"request=1f", "enter")
        assert [r.text for r in view._records] == ["line 7 request=1f"]
        await press(pilot, "escape", "slash", *"[", "enter")
        assert "no regular expression" in [n.message for n in app._notifications][-1]
        await press(pilot, "home", "space")
        first = view._current()
        feed._on_event(Logged((LogRecord(2000.0, "info", "kv@host", "new"),), "journal"))
        app._refresh()
        assert view._chosen is None
        assert view._current().text == "new"
        await press(pilot, "up", "up")
        held = view._current()
        feed._on_event(Logged((LogRecord(2001.0, "info", "kv@host", "newer"),), "journal"))
        app._refresh()
        assert view._current() == held != first
        await press(pilot, "end")
        assert view._current().text == "newer"


async def test_an_unreachable_journal_says_so(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "9")
        feed._on_event(Logged((), "journal", "no journal here: join the group systemd-journal"))
        app._refresh()
        drawn = "\n".join(str(line) for line in app.query_one("#log")._draw(app.query_one("#logs").scene, 100, 20))
        assert "join the group systemd-journal" in drawn


async def test_what_was_done_is_a_table(start: Callable[..., HeadraceTop], feed: Obedient) -> None:
    app = start()
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "0")
        records = tuple(
            ActionRecord(at=1.0 + n, process="kv@host", uid=n, user=f"u{n}", pid=n, program="cli", verb="drain",
                         object="kv@host", result="done", reason="why") for n in range(3)
        )  # fmt: skip
        feed._on_event(Actions(records))
        app._refresh()
        assert len(app.query_one("#actions-table", LiveTable).rows) == 3
        await press(pilot, "tab", "slash", *"user=u1", "enter")
        assert len(app.query_one("#actions-table", LiveTable).rows) == 1
