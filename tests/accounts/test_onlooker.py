"""What screens are told of limits and budgets: how they stand, the tightest first, and never too much."""

from __future__ import annotations

from accounts.core.book import Book, Holder
from accounts.core.directory import Register
from accounts.onlooker import MOST_LOOKED_AT, MOST_SHOWN, Onlooker
from bus.messages.accounts import Allowance, Ask, Key, Line, Project, Settlement

SECOND = 1_000_000_000
INGRESS = Holder("ingress@0", 1)


def books(*allowances: Allowance) -> tuple[Onlooker, Book]:
    register, book = Register("s"), Book()
    register.put(Project("acme/web"))
    register.put(Key("k1", "laptop", "acme/web", b""))
    for each in allowances:
        register.put(each)
        book.put(each, 0)
    onlooker = Onlooker(register, book)
    onlooker.changed(book.dirty)
    return onlooker, book


def test_it_says_what_is_used_leased_and_left() -> None:
    onlooker, book = books(
        Allowance(1, "key", "k1", "total_tokens", 1000, 100),
        Allowance(2, "organisation", "acme", "money", 500, 0, "total"),
        Allowance(3, "project", "acme/web", "concurrency", 10),
    )
    book.ask(INGRESS, Ask(1, (Line(1, 0, 0, 0, 300, 300), Line(3, 0, 0, 0, 4, 4))), 0, 0)
    book.ask(INGRESS, Ask(2, (Line(1, 300, 200, 0, 300, 300),)), 0, 0)
    book.spend([Settlement(7, "k1", "m", 120, 0)], {"k1": (2,)})
    view = onlooker.view("accounts@host", "EUR", 0, 0)
    stands = {one.dimension: (one.amount, one.used, one.leased, one.left) for one in view.standings}
    assert stands == {"total_tokens": (1000, 200, 100, 700), "money": (500, 120, 0, 380), "concurrency": (10, 0, 4, 6)}
    assert (view.keys, view.projects, view.allowances) == (1, 1, 3)
    assert [one.dimension for one in view.standings] == ["concurrency", "total_tokens", "money"]
    assert {one.label for one in view.standings if one.kind == "key"} == {"laptop"}
    later = onlooker.view("accounts@host", "EUR", 10 * SECOND, 10)
    filled = next(one for one in later.standings if one.dimension == "total_tokens")
    assert (filled.used, filled.left) == (100, 800)


def test_it_is_bounded_and_keeps_what_was_in_use_lately() -> None:
    many = [Allowance(n, "project", f"p{n}", "requests", 1000, 60) for n in range(1, 3001)]
    onlooker, book = books(*many)
    book.ask(INGRESS, Ask(1, (Line(5, 0, 0, 0, 999, 999),)), 0, 0)
    onlooker.changed([5])
    view = onlooker.view("accounts@host", "", 0, 0)
    assert len(view.standings) == MOST_SHOWN
    assert view.allowances == 3000
    assert view.standings[0].scope == "p5"
    onlooker.changed(range(100, 100 + MOST_LOOKED_AT))
    assert "p5" not in {one.scope for one in onlooker.view("accounts@host", "", 0, 0).standings}
    book.drop(101)
    assert "p101" not in {one.scope for one in onlooker.view("accounts@host", "", 0, 0).standings}
