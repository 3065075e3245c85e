"""Covering arrays: few combinations in which every so many values of different factors meet. Pure, and always the same.

Most faults of configurable software need two or three factors together (Kuhn, Wallace, Gallo, IEEE TSE 2004), so all
pairs or triples find them with a fraction of all combinations. Rows are made one at a time, each around a tuple that is
not covered yet, every further factor with the value that covers most (Cohen, Dalal, Fredman, Patton, "The AETG system",
IEEE TSE 1997).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

Row = dict[str, str]
Tuple = tuple[tuple[str, str], ...]  # (factor, value), in the order of factors


def covering(factors: Mapping[str, Sequence[str]], strength: int) -> list[Row]:
    """Rows, a value for each factor, such that any `strength` values of different factors are in one of them."""
    left = dict.fromkeys(tuples(factors, strength))
    rows: list[Row] = []
    while left:
        seed = dict(next(iter(left)))
        rows.append(_grown(seed, factors, left, strength))
        for met in met_in(rows[-1], factors, strength):
            left.pop(met, None)
    return rows


def tuples(factors: Mapping[str, Sequence[str]], strength: int) -> list[Tuple]:
    """Everything that has to meet."""
    return [
        tuple(zip(names, values, strict=True))
        for names in combinations(factors, strength)
        for values in product(*(factors[name] for name in names))
    ]


def met_in(row: Row, factors: Mapping[str, Sequence[str]], strength: int) -> list[Tuple]:
    """What meets in one row."""
    return [tuple((name, row[name]) for name in names) for names in combinations(factors, strength)]


def _grown(row: Row, factors: Mapping[str, Sequence[str]], left: Mapping[Tuple, None], strength: int) -> Row:
    """A row with all factors: the next is the one, with the value, that has most open tuples with those that are there;
    where the row is still too short to complete any, those that it has a part in count."""
    while len(row) < len(factors):
        scores = {
            (name, value): _gain({**row, name: value}, name, factors, left, strength)
            for name in factors
            if name not in row
            for value in factors[name]
        }
        name, value = max(scores, key=lambda each: scores[each])
        row[name] = value
    return row


def _gain(
    row: Row, added: str, factors: Mapping[str, Sequence[str]], left: Mapping[Tuple, None], strength: int
) -> tuple[int, int]:
    there = [name for name in factors if name in row]
    complete = sum(
        tuple((name, row[name]) for name in names) in left
        for names in combinations(there, min(strength, len(there)))
        if added in names
    )
    return complete, sum((added, row[added]) in each for each in left)
