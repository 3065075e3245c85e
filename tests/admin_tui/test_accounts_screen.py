"""The Accounts screen: the tightest first, in the currency, and names of strangers as text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import pytest
from test_injection import ATTACKS, characters

from admin_tui import plain
from admin_tui.accounts import rows
from admin_tui.app import HeadraceTop
from admin_tui.glyphs import UNICODE
from admin_tui.look import Look
from admin_tui.panel import Panel, Scene
from admin_tui.plain_details import lines
from admin_tui.recording import Recorded
from admin_tui.table import LiveTable
from admin_tui.world import World
from bus.messages.details import AllowancesReply
from bus.messages.vitals import AccountsView, Standing

SECOND = 1_000_000_000
NAMES = ("k01", "acme", "acme/web", "acme/batch")


def standing(scope: str, dimension: str, amount: int, used: int, leased: int, *, model: str = "") -> Standing:
    kind = "key" if scope.startswith("k") else "project" if "/" in scope else "organisation"
    window, period = (0, "month") if dimension == "money" else (0 if dimension == "concurrency" else 60, "")
    label = "laptop" if kind == "key" else ""
    return Standing(kind, scope, label, dimension, model, amount, window, period, used, leased, amount - used - leased)


STANDINGS = (
    standing("acme", "money", 250 * SECOND, 249 * SECOND, 0),
    standing("k01", "total_tokens", 100_000, 40_000, 10_000, model="smollm2"),
    standing("acme/web", "concurrency", 32, 0, 4),
    standing("acme/batch", "requests", 1_000, 1_020, 0),
)


def reply(*standings: Standing, allowances: int = 40) -> AllowancesReply:
    return AllowancesReply(
        0, 5 * SECOND, 4 * SECOND, AccountsView("accounts@host", 12, 3, allowances, "EUR", standings)
    )


def scene(answer: AllowancesReply | None) -> Scene:
    world = World()
    if answer is not None:
        world.apply(answer, SECOND)
    return Scene(world, UNICODE, SECOND)


def test_the_tightest_is_first_and_amounts_are_in_their_units() -> None:
    found = rows.rows(scene(reply(*STANDINGS)), Look("part"))
    cells = [{name: cell.plain for name, cell in row.cells.items()} for row in found]
    assert [cell["scope"].split()[0] for cell in cells] == ["acme/batch", "acme", "k01", "acme/web"]
    over, money, tokens, at_once = cells
    assert (over["left"], over["used"], over["per"]) == ("-20", "1.0k", "1m00s")
    assert (money["limit"], money["used"], money["left"]) == ("250.00", "249.00", "1.00")
    assert (money["what"], money["per"]) == ("EUR", "month")
    assert (tokens["what"], tokens["model"], tokens["name"]) == ("total tokens", "smollm2", "laptop")
    assert (tokens["used"], tokens["leased"], tokens["left"]) == ("40.0k", "10.0k", "50.0k")
    assert (at_once["used"], at_once["leased"], at_once["per"], at_once["model"]) == ("-", "4", "at once", "all")


def test_filters_and_faults_keep_what_is_tight() -> None:
    at = scene(reply(*STANDINGS))
    tight = [row.key.split()[1] for row in rows.rows(at, Look("part", faults_only=True))]
    assert tight == ["acme/batch", "acme"]
    by_filter = rows.rows(at, Look("part", filter="what=money used>200"))
    assert [row.key.split()[1] for row in by_filter] == ["acme"]
    by_used = rows.rows(at, Look("used"))
    assert by_used[0].key.startswith("key k01")
    assert len({row.key for row in by_used}) == 4


def test_what_is_not_known_is_said() -> None:
    assert rows.rows(scene(None), Look("part")) == []
    assert "asking" in rows.note(scene(None))[0].plain
    assert "nobody is asked for a key" in rows.note(scene(AllowancesReply(0, 1, 0)))[0].plain
    told = "\n".join(line.plain for line in rows.note(scene(reply(*STANDINGS))))
    assert "36 more" in told
    assert "all of them" in rows.note(scene(reply(*STANDINGS, allowances=4)))[1].plain
    nothing = standing("k01", "requests", 0, 0, 0)
    assert rows.part(nothing) == 0.0
    assert rows.faulty(nothing)


def test_plain_output_has_them_too() -> None:
    world = scene(reply(*STANDINGS)).world
    said = "\n".join(lines(world.details))
    assert "organisation acme money limit 250 used 249 leased 0 left 1, 0 % of it" in said
    document = json.loads(plain.as_json(world, SECOND))
    assert document["allowances"]["view"]["standings"][1]["scope"] == "k01"


@pytest.mark.parametrize("text", ["laptop", *ATTACKS])
async def test_the_screen_shows_names_as_text(make_app: Callable[..., HeadraceTop], text: str) -> None:
    spoiled = Standing("key", text, text, "money", text, 10, 0, text, 9, 1, 0)
    other = Standing(text, text, text, text, text, 10, 60, text, 9, 1, 0)
    view = AccountsView("accounts@host", 1, 1, 2, text, (spoiled, other))
    app = make_app([Recorded(0.0, AllowancesReply(0, SECOND, SECOND, view))])
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("a")
        await pilot.pause()
        table = app.query_one("#accounts-table", LiveTable)
        assert len(table.rows) == 2
        drawn = characters(app)
        assert len(drawn) == 140 * 30
        assert not [c for c in drawn if unicodedata.category(c) in ("Cc", "Cf")]
        assert text != "laptop" or "laptop" in drawn
        await pilot.press("f", "s", "w", "enter")
        await pilot.pause()
        assert app.is_running


async def test_it_says_that_there_are_no_keys(make_app: Callable[..., HeadraceTop]) -> None:
    app = make_app([Recorded(0.0, AllowancesReply(0, SECOND, 0))])
    async with app.run_test(size=(100, 24)) as pilot:
        assert "Accounts" not in characters(app)
        await pilot.press("a")
        await pilot.pause()
        assert "keys create" in characters(app)
        assert app.query_one("#accounts-note", Panel).border_title is not None
