"""Keys, focus and dialogs. The law of the screen: lower case looks; upper case acts, and only after a yes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Button, ContentSwitcher

from admin_tui.actions import Order
from admin_tui.app import HeadraceTop, bindings_of
from admin_tui.chrome.command import CommandLine
from admin_tui.chrome.prompt import Prompt
from admin_tui.courier import OnAnswer
from admin_tui.dialogs.confirm import ConfirmScreen
from admin_tui.dialogs.help import HelpScreen
from admin_tui.fleet.rows import COLUMNS
from admin_tui.recording import Recorded
from admin_tui.replay import ReplayFeed
from admin_tui.requests.view import RequestsView
from admin_tui.table import LiveTable
from admin_tui.views import VIEWS, Shown, shown

SIZE = (120, 34)
ALL_BINDINGS = [
    binding for part in (HeadraceTop, LiveTable, *(view.make for view in VIEWS)) for binding in part.BINDINGS
]
ACTS = ("order(", "cancel")  # how the actions begin that lead to an order
LATE = "worker@smollm2.1.0"


class Obedient(ReplayFeed):
    """A recording that takes orders and remembers them."""

    def __init__(self, recorded: list[Recorded]) -> None:
        super().__init__(recorded)
        self.orders: list[Order] = []

    def give(self, order: Order, on_answer: OnAnswer, *, supervised: bool) -> None:
        assert supervised
        self.orders.append(order)
        on_answer(True, "done")


@pytest.fixture
def feed(demo: list[Recorded]) -> Obedient:
    return Obedient(demo)


@pytest.fixture
def app(feed: Obedient) -> HeadraceTop:
    return HeadraceTop(lambda: feed, wall_clock=lambda: "12:00:00", host="gpu-07")


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


async def select(pilot: Pilot[None], name: str) -> None:
    """Cursor on a process."""
    await press(pilot, "2")
    table = pilot.app.query_one("#fleet-table", LiveTable)
    while table.current() != name:
        await press(pilot, "down")


def table_keys(app: HeadraceTop, table: str) -> list[str]:
    return [row.key for row in app.query_one(table, LiveTable).rows]


async def test_digits_change_the_screen_and_the_keys_go_to_its_table(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        for view in VIEWS:
            await press(pilot, view.key)
            assert app.query_one(ContentSwitcher).current == view.id
            assert app.focused is next(
                iter(app.query_one(f"#{view.id}").query(LiveTable)), app.query_one(f"#{view.id}")
            )
        await press(pilot, VIEWS[0].key, "minus")
        assert app.query_one(ContentSwitcher).current == VIEWS[-1].id


@pytest.mark.parametrize(("key", "verb"), [("D", "drain"), ("U", "undrain"), ("R", "restart")])
async def test_an_upper_case_key_asks_and_enter_cancels(app: HeadraceTop, feed: Obedient, key: str, verb: str) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, LATE)
        await press(pilot, key)
        assert isinstance(app.screen, ConfirmScreen)
        assert isinstance(app.focused, Button)
        assert app.focused.id == "cancel"
        await press(pilot, "enter")
        assert not isinstance(app.screen, ConfirmScreen)
        assert feed.orders == []
        await press(pilot, key, "tab", "enter")
        assert feed.orders == [Order(verb, LATE)]  # type: ignore[arg-type]


async def test_escape_cancels(app: HeadraceTop, feed: Obedient) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, LATE)
        await press(pilot, "R", "tab", "escape")
        assert feed.orders == []


@pytest.mark.parametrize("typed", ["", "worker", LATE + "x", LATE.upper()])
async def test_a_kill_needs_the_name(app: HeadraceTop, feed: Obedient, typed: str) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, LATE)
        await press(pilot, "K")
        await pilot.press(*typed)
        await pilot.pause()
        assert app.screen.query_one("#act", Button).disabled
        await press(pilot, "enter")
        assert feed.orders == []
        assert not isinstance(app.screen, ConfirmScreen)


async def test_a_kill_with_the_right_name_is_given(app: HeadraceTop, feed: Obedient) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, LATE)
        await press(pilot, "K")
        await pilot.press(*LATE)
        await press(pilot, "enter")
        assert feed.orders == [Order("kill", LATE)]


async def test_a_request_in_hand_can_be_cancelled_and_an_ended_one_cannot(app: HeadraceTop, feed: Obedient) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "4", "X", "tab", "enter")
        (order,) = feed.orders
        assert order.verb == "cancel"
        await press(pilot, "end", "X")
        assert not isinstance(app.screen, ConfirmScreen)
        assert feed.orders == [order]


def lower_case(keys: set[str]) -> list[str]:
    return sorted(key for key in keys - {"q"} if not (len(key) == 1 and key.isupper()))


async def press_each(app: HeadraceTop, view: Shown, keys: list[str]) -> set[type]:
    """Press every key on a screen, and say what opened over it. A small screen, since each key draws it."""
    opened = set()
    async with app.run_test(size=(64, 16)) as pilot:
        await pilot.press(view.key)
        for key in keys:
            await pilot.press(key)
            opened.add(type(app.screen))
            if len(app.screen_stack) > 1 or isinstance(app.focused, Prompt | CommandLine):
                await pilot.press("escape")
            if app.query_one(ContentSwitcher).current != view.id:
                await pilot.press(view.key)
        assert app.is_running
    return opened


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.id)
async def test_no_bound_key_but_an_upper_case_one_leads_to_an_order(
    app: HeadraceTop, feed: Obedient, view: Shown
) -> None:
    bindings = [*HeadraceTop.BINDINGS, *LiveTable.BINDINGS, *view.make.BINDINGS]
    bound = {binding.key for binding in bindings if isinstance(binding, Binding)}
    assert ConfirmScreen not in await press_each(app, view, lower_case(bound))
    assert feed.orders == []


async def test_no_printable_key_but_an_upper_case_one_leads_to_an_order(app: HeadraceTop, feed: Obedient) -> None:
    names = {"/": "slash", "?": "question_mark", "[": "left_square_bracket", "]": "right_square_bracket", "-": "minus"}
    printable = {names.get(key, key) for key in map(chr, range(33, 127))}
    opened = await press_each(app, shown("fleet"), lower_case(printable))
    assert ConfirmScreen not in opened
    assert HelpScreen in opened
    assert feed.orders == []


def test_every_acting_key_is_upper_case_and_every_other_is_not() -> None:
    for binding in ALL_BINDINGS:
        assert isinstance(binding, Binding)
        acts = binding.action.startswith(ACTS)
        assert acts == (len(binding.key) == 1 and binding.key.isupper()), binding


def test_no_key_means_two_things_on_a_screen() -> None:
    for view in VIEWS:
        bindings = [*HeadraceTop.BINDINGS, *bindings_of(view.make)]
        keys = [binding.key for binding in bindings if isinstance(binding, Binding) and binding.description]
        assert len(keys) == len(set(keys)), view.id


async def test_a_filter_narrows_the_table_and_an_empty_one_opens_it(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2")
        everyone = table_keys(app, "#fleet-table")
        await press(pilot, "slash", *"unit=worker", "enter")
        assert table_keys(app, "#fleet-table") == [name for name in everyone if name.startswith("worker@")]
        assert isinstance(app.focused, LiveTable)
        await press(pilot, "slash", "x", "escape")
        assert len(table_keys(app, "#fleet-table")) == 3
        await press(pilot, "slash", *["backspace"] * 12, "enter")
        assert table_keys(app, "#fleet-table") == everyone


async def test_keys_that_are_typed_into_the_filter_do_nothing_else(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2", "slash", "D", "K", "q", "3")
        assert app.query_one(ContentSwitcher).current == "fleet"
        assert not isinstance(app.screen, ConfirmScreen)


async def test_sorting_and_faults_only(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2")
        by_name = table_keys(app, "#fleet-table")
        await press(pilot, "r")
        assert table_keys(app, "#fleet-table") == by_name[::-1]
        await press(pilot, "r", "s")
        assert table_keys(app, "#fleet-table") != by_name
        await press(pilot, "f")
        assert table_keys(app, "#fleet-table") == [LATE]


async def test_enter_opens_the_timeline_and_escape_closes_it(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "4", "enter")
        view = app.query_one(RequestsView)
        assert view.opened is not None
        assert view.has_class("-opened")
        await press(pilot, "escape")
        assert view.opened is None
        assert not view.has_class("-opened")


async def test_help_lists_the_keys_of_the_screen_in_view(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2", "question_mark")
        assert isinstance(app.screen, HelpScreen)
        text = app.screen._text().plain
        assert "D      drain, asks first" in text
        assert "timeline" not in text
        await press(pilot, "escape")
        assert not isinstance(app.screen, HelpScreen)


async def test_a_dialog_stays_while_the_feed_goes_on(app: HeadraceTop, feed: Obedient) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "4", "enter", "X")
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.pause(1.2)
        assert isinstance(app.screen, ConfirmScreen)
        await press(pilot, "escape", "question_mark")
        await pilot.pause(0.7)
        assert isinstance(app.screen, HelpScreen)
        assert feed.orders == []


async def test_a_replay_obeys_nobody(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await select(pilot, LATE)
        await press(pilot, "D", "tab", "enter")
        assert [n.message for n in app._notifications] == ["this is a recording; drain reaches nobody"]


async def test_marks_stay_on_their_rows_and_are_what_is_chosen(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await press(pilot, "2", "home", "space", "space")
        table = app.query_one("#fleet-table", LiveTable)
        marked = table_keys(app, "#fleet-table")[:2]
        assert table.chosen() == marked
        await press(pilot, "r")
        assert table.chosen() == marked[::-1]
        await press(pilot, "r", "home", "space", "home")
        assert table.chosen() == marked[1:]
        await press(pilot, "down", "space")
        assert table.chosen() == [table.current()]


async def test_a_wide_table_shows_every_column(app: HeadraceTop) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "2")
        table = app.query_one("#fleet-table", LiveTable)
        narrow = len(table.columns)
        await press(pilot, "w")
        assert len(table.columns) == len(COLUMNS) > narrow
        await press(pilot, "w")
        assert len(table.columns) == narrow


async def test_a_terminal_too_small_says_so_and_a_larger_one_shows_again(app: HeadraceTop) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        for width, height, fits in ((50, 24, False), (80, 10, False), (64, 16, True), (80, 24, True)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            assert app.query_one("#views").display is fits
            assert app.query_one("#tiny").display is not fits


async def test_the_cursor_stays_on_its_process_when_rows_move(app: HeadraceTop) -> None:
    async with app.run_test(size=SIZE) as pilot:
        await select(pilot, "kv@host")
        await press(pilot, "r")
        assert app.query_one("#fleet-table", LiveTable).current() == "kv@host"
