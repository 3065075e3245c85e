"""Limits and budgets as table rows: what is allowed, used, leased and left. Pure."""

from __future__ import annotations

from functools import partial
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import bar, pairs
from admin_tui.filters import Value
from admin_tui.look import Look
from admin_tui.models.usage import money
from admin_tui.panel import Scene
from admin_tui.table import Cells, Column, Row
from admin_tui.text import NOTHING, count, duration, percent, sanitize, short
from bus.messages.details import AllowancesReply
from bus.messages.vitals import AccountsView, Standing

COLUMNS: Final = (
    Column("scope", "OF", 0),
    Column("name", "NAME", 14, screen=110),
    Column("what", "WHAT", 13),
    Column("model", "MODEL", 14, screen=130),
    Column("limit", "LIMIT", 9, True),
    Column("per", "PER", 7),
    Column("used", "USED", 9, True),
    Column("leased", "LEASED", 8, True),
    Column("left", "LEFT", 9, True),
    Column("full", "", 12, screen=100),
)
SORTS: Final = ("part", "scope", "what", "used", "leased", "left")
TIGHT: Final = 0.1  # of the amount
NANO: Final = 1e9


def part(one: Standing) -> float:
    """How much of it is left; what is overdrawn is nothing."""
    return max(0.0, one.left / one.amount) if one.amount > 0 else 0.0


def faulty(one: Standing) -> bool:
    """Whether callers are turned away, or soon will be. What ingresses hold can still be used."""
    return one.left + one.leased <= TIGHT * one.amount


def key(one: Standing) -> str:
    """One allowance: there may be several of a scope."""
    return " ".join((one.kind, one.scope, one.dimension, one.model, str(one.window_s), one.period))


def facts(one: Standing) -> dict[str, Value]:
    """An allowance as filters and sorting see it; money in the currency."""
    unit = NANO if one.dimension == "money" else 1.0
    return {
        "scope": one.scope, "kind": one.kind, "name": one.label, "what": one.dimension, "model": one.model,
        "limit": one.amount / unit, "used": one.used / unit, "leased": one.leased / unit, "left": one.left / unit,
        "part": part(one),
    }  # fmt: skip


def rows(scene: Scene, look: Look) -> list[Row]:
    """The tightest first, or by what is sorted by."""
    view = view_of(scene.world.details.allowances)
    if view is None:
        return []
    kept = [(f, one) for one in view.standings if look.keeps(f := facts(one), faulty=faulty(one))]
    kept.sort(key=lambda pair: pair[0][look.sort], reverse=look.reverse != (look.sort in ("used", "leased", "left")))
    return [Row(key(one), partial(_row, scene, one, view.currency)) for _, one in kept]


def view_of(reply: AllowancesReply | None) -> AccountsView | None:
    """What the accounts process said, where there is one."""
    return reply.view if reply is not None else None


def _row(scene: Scene, one: Standing, currency: str) -> Cells:
    tight = faulty(one)
    said = palette.WARN if tight else palette.TEXT
    is_money = one.dimension == "money"

    def amount(number: int, colour: str) -> Text:
        if is_money:
            sign = "-" if number < 0 else ""
            return Text(sign + money(abs(number) / NANO), colour)
        return Text(short(number), colour)

    scope = Text(sanitize(one.scope, 64), said)
    if tight:
        scope.append(f" {scene.glyphs.states['late']}", palette.WARN)
    what = sanitize(currency, 8) or "money" if is_money else sanitize(one.dimension, 16).replace("_", " ")
    return {
        "scope": scope,
        "name": Text(sanitize(one.label, 48) or NOTHING, palette.SOFT),
        "what": Text(what, palette.TEXT),
        "model": Text(sanitize(one.model, 48) or "all", palette.SOFT),
        "limit": amount(one.amount, palette.TEXT),
        "per": Text(_per(one), palette.SOFT),
        "used": Text(NOTHING, palette.SOFT) if one.dimension == "concurrency" else amount(one.used, palette.TEXT),
        "leased": amount(one.leased, palette.WATER if one.leased else palette.SOFT),
        "left": amount(one.left, said),
        "full": bar(1.0 - part(one), 12, scene.glyphs, palette.WARN if tight else palette.WATER),
    }


def _per(one: Standing) -> str:
    if one.dimension == "money":
        return duration(float(one.period)) if one.period.isdecimal() else sanitize(one.period, 8) or NOTHING
    return duration(one.window_s) if one.window_s else "at once"


def note(scene: Scene) -> list[Text]:
    """What there is, and what of it is shown."""
    reply = scene.world.details.allowances
    if reply is None:
        return [Text("asking for it")]
    view = reply.view
    if view is None:
        return [
            Text("nobody is asked for a key here, or accounts@host was not heard", palette.SOFT),
            Text('[accounts] keys = "required"; then headrace keys create', palette.FAINT),
        ]
    tight = sum(map(faulty, view.standings))
    first = pairs(
        ("keys", count(view.keys)), ("projects", count(view.projects)), ("limits and budgets", count(view.allowances)),
        ("with less than " + percent(TIGHT), count(tight), palette.WARN if tight else palette.TEXT),
    )  # fmt: skip
    shown, rest = len(view.standings), view.allowances - len(view.standings)
    more = f"the {count(shown)} with the least left of those used lately; {count(rest)} more: headrace keys show"
    return [first, Text(more if rest > 0 else "all of them", palette.FAINT)]
