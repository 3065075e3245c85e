"""Sparklines and bars keep to their box and show anything above nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from admin_tui.ascii_only import to_ascii
from admin_tui.draw import bar, segments, spark, spread
from admin_tui.glyphs import ASCII, UNICODE, Glyphs
from admin_tui.text import sanitize

values = st.lists(st.floats(0, 1e6), max_size=80)
sets = st.sampled_from([UNICODE, ASCII])


@given(values, st.integers(1, 60), st.integers(1, 6), sets)
def test_a_sparkline_fills_its_box(shown: list[float], width: int, height: int, glyphs: Glyphs) -> None:
    lines = spark(shown, width, height, glyphs)
    assert [len(line) for line in lines] == [width] * height


@given(values.filter(any), st.integers(1, 6))
def test_every_value_above_nothing_is_seen_and_the_largest_reaches_the_top(shown: list[float], height: int) -> None:
    lines = spark(shown, len(shown), height, UNICODE)
    for column, value in enumerate(shown):
        assert (lines[-1][column] != " ") == (value > 0)
    assert "█" in lines[0]


@given(st.floats(0, 2), st.integers(1, 60), sets)
def test_a_bar_is_as_long_as_its_box(ratio: float, width: int, glyphs: Glyphs) -> None:
    assert len(bar(ratio, width, glyphs, "red").plain) == width


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5).filter(any), st.integers(10, 80))
def test_segments_fill_the_width_and_none_is_lost(amounts: list[float], width: int) -> None:
    drawn = segments([(amount, f"#{index:06d}") for index, amount in enumerate(amounts)], width, UNICODE)
    assert len(drawn.plain) == width
    assert len(drawn.spans) == sum(amount > 0 for amount in amounts)


@given(st.text())
def test_ascii_is_ascii_of_the_same_width(text: str) -> None:
    drawn = to_ascii(sanitize(text))
    assert drawn.isascii()
    assert len(drawn) == cell_len(sanitize(text))


@pytest.mark.parametrize(("left", "shown"), [("ab", "ab    yz"), ("abcdefgh", "abcd… yz")])
def test_the_right_text_is_never_lost(left: str, shown: str) -> None:
    assert spread(Text(left), Text("yz"), 8).plain == shown
