"""Row filters: `state=decode tenant!=acme age>2 smol` keeps rows for which every term holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

Value = str | float
_TERM: Final = re.compile(r"([a-z_%]+)(!=|>=|<=|=|>|<)(.*)", re.IGNORECASE)


class Term(NamedTuple):
    """One condition; without a field it looks for `value` in all of them."""

    field: str
    operator: str
    value: str


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a filter line; every line is one."""
    terms = []
    for word in text.split():
        match = _TERM.fullmatch(word)
        terms.append(Term(match[1].lower(), match[2], match[3]) if match else Term("", "~", word))
    return tuple(terms)


def matches(terms: tuple[Term, ...], row: Mapping[str, Value]) -> bool:
    """Whether a row stays. A field that rows do not have matches nothing."""
    return all(_holds(term, row) for term in terms)


def _holds(term: Term, row: Mapping[str, Value]) -> bool:
    wanted = term.value.lower()
    if not term.field:
        return any(wanted in str(value).lower() for value in row.values())
    if term.field not in row:
        return False
    value = row[term.field]
    if term.operator in ("=", "!="):
        return _equal(value, wanted) == (term.operator == "=")
    try:
        left, right = float(value), float(wanted)
    except ValueError:
        return False
    return {">": left > right, "<": left < right, ">=": left >= right, "<=": left <= right}[term.operator]


def _equal(value: Value, wanted: str) -> bool:
    """Text is equal where it begins so: `unit=worker` finds all workers."""
    if isinstance(value, str):
        return value.lower().startswith(wanted) if wanted else not value
    try:
        return value == float(wanted)
    except ValueError:
        return False
