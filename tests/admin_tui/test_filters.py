"""Row filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_tui.filters import matches, parse

ROW = {"unit": "worker@smollm2.0.0", "state": "late", "cpu": 93.5, "exit": ""}


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("", True), ("state=late", True), ("state=LATE", True), ("state!=late", False), ("unit=worker", True),
        ("unit=smol", False), ("smol", True), ("nothing", False), ("cpu>90", True), ("cpu>=93.5 cpu<94", True),
        ("cpu<90", False), ("cpu>x", False), ("cpu=93.5", True), ("other=1", False), ("state=late cpu<1", False),
        ("exit=", True), ("state=", False), ("state!=", True),
    ],
)  # fmt: skip
def test_rows_stay_where_every_term_holds(text: str, stays: bool) -> None:
    assert matches(parse(text), ROW) is stays


@given(st.text())
def test_any_text_is_a_filter(text: str) -> None:
    matches(parse(text), ROW)


@given(st.text(), st.text())
def test_terms_only_narrow(first: str, second: str) -> None:
    if matches(parse(f"{first} {second}"), ROW):
        assert matches(parse(first), ROW)
        assert matches(parse(second), ROW)
