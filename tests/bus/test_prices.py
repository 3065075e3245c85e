"""The price book: which row holds, and that each kind of token is charged at its own price."""

from __future__ import annotations

import calendar

from hypothesis import given
from hypothesis import strategies as st

from bus.config import PriceConfig
from bus.prices import FREE, NANO, Price, PriceBook

tokens = st.integers(0, 10**7)
prices = st.integers(0, 10**12)


def test_the_latest_row_that_has_begun_holds() -> None:
    book = PriceBook([
        PriceConfig("a*", 1.0, 2.0), PriceConfig("a*", 3.0, 4.0, valid_from="2026-05-01"),
        PriceConfig("b", 5.0, 6.0, valid_from="2026-05-01"),
    ])  # fmt: skip
    may = calendar.timegm((2026, 5, 1, 0, 0, 0))
    assert book.at("a1", may - 1).input == NANO
    assert book.at("a1", may).input == 3 * NANO
    assert book.at("b", may - 1) == FREE
    assert book.at("c", may) == FREE


def test_a_thought_costs_what_it_is_said_to_cost() -> None:
    (plain, free, dear) = (
        PriceBook([PriceConfig("m", 1.0, 2.0, reasoning=price)]).at("m", 0) for price in (None, 0.0, 5.0)
    )
    million = 1_000_000
    assert plain.cost(million, 0, 3 * million, million) == (1 + 6) * NANO
    assert free.cost(million, 0, 3 * million, million) == (1 + 4) * NANO
    assert dear.cost(million, 0, 3 * million, million) == (1 + 4 + 5) * NANO


@given(prices, prices, prices, prices, tokens, tokens, tokens, tokens)
def test_what_is_reserved_is_enough_however_much_is_thought(
    input: int, cached_input: int, output: int, reasoning: int, prompt: int, said: int, thought: int, found: int
) -> None:
    price = Price(input, min(input, cached_input), output, reasoning - output)
    cost = price.cost(prompt, min(found, prompt), said + thought, thought)
    assert 0 <= cost <= price.dearest.cost(prompt, 0, said + thought)
