"""What the book of allowances decides, one rule at a time."""

from __future__ import annotations

import pytest

from accounts.core import periods
from accounts.core.book import DOUBT_NS, PATIENCE_NS, Book, Holder
from bus.messages.accounts import Allowance, Ask, Grant, Line, Settlement

A, B = Holder("ingress@0", 1), Holder("ingress@1", 1)
S = 1_000_000_000
BUDGET = Allowance(1, "key", "k", "money", 1000, 0, "total")


def book_of(allowance: Allowance) -> Book:
    book = Book()
    book.put(allowance, 0)
    return book


def given(book: Book, holder: Holder, line: Line, now_ns: int = 0) -> Grant:
    answer = book.ask(holder, Ask(1, (line,)), now_ns, 0)
    assert answer is not None
    return answer.lines[0]


def test_a_limit_fills_evenly_and_never_beyond_its_amount() -> None:
    book = book_of(Allowance(1, "key", "k", "requests", 60, 60))
    assert given(book, A, Line(1, 0, 0, 0, 60, 60)) == Grant(1, 60, 0)
    assert given(book, A, Line(1, 60, 60, 0, 65, 65)).wait_ms == 5000
    assert given(book, A, Line(1, 60, 60, 0, 65, 65), 5 * S).granted == 65
    assert book.accounts[1].free(10_000 * S, 0) == 55, "and five are held"


def test_what_was_used_beyond_a_lease_is_paid_back() -> None:
    book = book_of(Allowance(1, "key", "k", "output_tokens", 100, 100))
    given(book, A, Line(1, 0, 0, 0, 100, 100))
    late = given(book, A, Line(1, 100, 150, 0, 151, 151), 10 * S)
    assert (late.granted, late.left, late.wait_ms) == (150, -50, 51_000), "nothing flowed in while all of it was held"
    assert given(book, A, Line(1, 150, 150, 0, 151, 151), 61 * S).granted == 151


def test_others_give_back_what_somebody_needs() -> None:
    book = book_of(Allowance(1, "key", "k", "concurrency", 2))
    given(book, A, Line(1, 0, 0, 0, 1, 2))
    assert given(book, A, Line(1, 1, 0, 0, 2, 2)).granted == 2
    assert book.ask(B, Ask(7, (Line(1, 0, 0, 0, 1, 1),)), S, 0) is None
    assert book.recalls() == {A: [1]}
    assert book.turn(S, 0) == []
    given(book, A, Line(1, 2, 0, 1, 2, 2), S)
    [(holder, answer)] = book.turn(S, 0)
    assert (holder, answer.number, answer.lines[0].granted) == (B, 7, 1)
    assert book.ask(B, Ask(8, (Line(1, 1, 0, 0, 2, 2),)), S, 0) is None
    [(_, refused)] = book.turn(S + PATIENCE_NS, 0)
    assert refused.lines[0].wait_ms > 0, "nobody waits for ever"


def test_the_money_of_the_dead_is_in_doubt_for_a_while() -> None:
    book = book_of(BUDGET)
    given(book, A, Line(1, 0, 0, 0, 400, 400))
    book.forget(A, 0)
    assert book.accounts[1].free(DOUBT_NS - 1, 0) == 600
    book.spend([Settlement(1, "k", "m", 300, 0)], {"k": (1,)})
    assert book.accounts[1].free(DOUBT_NS, 0) == 700


def test_who_was_thought_dead_has_what_it_says() -> None:
    book = book_of(Allowance(1, "key", "k", "requests", 100, 3600))
    given(book, A, Line(1, 0, 0, 0, 40, 40))
    book.forget(A, 0)
    given(book, A, Line(1, 40, 15, 5, 40, 40))
    account = book.accounts[1]
    assert (account.held, account.level.tokens) == (20, 40), "what it used before is not taken twice"


@pytest.mark.parametrize(
    ("period", "now_s", "counts", "again"),
    [
        ("day", 86400 * 3 + 5, 86400 * 3, 86400 * 4),
        ("week", 86400 * 5, 86400 * 4, 86400 * 11),  # Tuesday, 6 January 1970
        ("month", 86400 * 40, 86400 * 31, 86400 * 59),
        ("total", 10**9, 0, 0),
        ("3000", 10_000, 7_000, 10_100),
    ],
)
def test_periods(period: str, now_s: int, counts: int, again: int) -> None:
    assert (periods.counts_from(period, now_s), periods.next_s(period, now_s)) == (counts, again)
    periods.check(period)


@pytest.mark.parametrize("period", ["", "59", "hour", "-60", "1e3", "9" * 30, "٣٠٠"])
def test_what_is_no_period(period: str) -> None:
    with pytest.raises(periods.BadPeriod):
        periods.check(period)
