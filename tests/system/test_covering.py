"""The law of covering arrays, for any factors."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

from covering import covering
from hypothesis import given
from hypothesis import strategies as st
from matrix import FACTORS

sizes = st.lists(st.integers(1, 4), min_size=3, max_size=6)


@given(sizes, st.integers(1, 3))
def test_any_values_of_different_factors_meet_in_a_row(counts: list[int], strength: int) -> None:
    factors = {f"f{at}": [f"v{value}" for value in range(count)] for at, count in enumerate(counts)}
    rows = covering(factors, strength)
    assert all(row.keys() == factors.keys() and all(row[name] in factors[name] for name in row) for row in rows)
    for names in combinations(factors, strength):
        wanted = set(product(*(factors[name] for name in names)))
        assert {tuple(row[name] for name in names) for row in rows} == wanted
    assert len(rows) <= prod(counts), "no more than there are combinations"
    assert covering(factors, strength) == rows


def test_few_rows_cover_the_matrix() -> None:
    """The least that any array could have is the product of the largest factors: 20 for pairs, 80 for triples."""
    assert len(covering(FACTORS, 2)) <= 25
    assert len(covering(FACTORS, 3)) <= 125
