"""Keys, projects and allowances as tables and as JSON."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bus.messages.accounts import Key
from bus.messages.control import AccountsHeld, AllowanceNow
from cli.accounts.amounts import amount, day, in_words
from cli.supervisor.logfiles import printable


def as_json(held: AccountsHeld) -> str:
    """Everything, without digests."""
    now_s = time.time()
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "projects": [msgspec.structs.asdict(project) for project in held.projects],
                "keys": [_key(key, now_s) for key in held.keys],
                "allowances": [_allowance(each) for each in held.allowances],
                "currency": held.currency,
                "more": held.more,
            }
        )
    ).decode()


def keys(held: AccountsHeld) -> None:
    """A line for each key."""
    table = _table("id", "name", "project", "state", "role", "models", "expires")
    now_s = time.time()
    for key in held.keys:
        table.add_row(
            key.id, printable(key.name), key.project, state(key, now_s), key.role, ", ".join(key.models) or "all",
            day(key.expires_s),
        )  # fmt: skip
    _print(table if held.keys else "no keys: headrace keys create NAME")
    if held.more:
        _print(f"{held.more:,} more; --limit shows them")


def projects(held: AccountsHeld) -> None:
    """A line for each project."""
    table = _table("project", "shares cached prompts with", "weight", "keys")
    for project in sorted(held.projects, key=lambda project: project.name):
        good = sum(key.project == project.name and not key.revoked_s for key in held.keys)
        table.add_row(project.name, _WHOM[project.shares], f"{project.weight:g}", f"{good:,}")
    _print(table if held.projects else "no projects: headrace keys create NAME makes one")


def allowances(held: AccountsHeld) -> None:
    """A line for each limit and budget."""
    if not held.allowances:
        _print("no limits and no budgets: everything that the models can do is allowed")
        return
    table = _table("of", "allowed", "used", "held by ingresses", "left", "again from (UTC)")
    for each in held.allowances:
        allowance = each.allowance
        table.add_row(
            allowance.scope, in_words(allowance, held.currency),
            amount(allowance, each.spent) if allowance.dimension == "money" else "",
            amount(allowance, each.held), amount(allowance, each.left), day(each.next_s),
        )  # fmt: skip
    _print(table)


def state(key: Key, now_s: float) -> str:
    """In one word."""
    if key.revoked_s:
        return "revoked"
    return "expired" if key.expires_s and key.expires_s <= now_s else "good"


_WHOM = {"project": "nobody else", "organisation": "its organisation", "everyone": "everyone"}


def _key(key: Key, now_s: float) -> dict[str, Any]:
    told = msgspec.structs.asdict(key)
    del told["digest"], told["previous"]
    return {**told, "state": state(key, now_s)}


def _allowance(each: AllowanceNow) -> dict[str, Any]:
    rest = {"spent": each.spent, "held": each.held, "left": each.left, "next_s": each.next_s}
    return {**msgspec.structs.asdict(each.allowance), **rest}


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(
            title, justify="right" if title in ("keys", "weight", "used", "left", "held by ingresses") else "left"
        )
    return table


def _print(what: Table | str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(what, markup=False, soft_wrap=isinstance(what, str))
