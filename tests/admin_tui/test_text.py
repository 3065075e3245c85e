"""Cleaning text from outside, and numbers as people read them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_tui.text import MAX_TEXT, count, duration, percent, rate, request_id, sanitize, short, size


@given(st.text())
def test_nothing_that_speaks_to_a_terminal_is_left(text: str) -> None:
    """No C0, C1, format, surrogate or unassigned character; one line; bounded."""
    clean = sanitize(text)
    assert all(unicodedata.category(character)[0] != "C" for character in clean)
    assert len(clean.splitlines()) <= 1
    assert len(clean) <= MAX_TEXT


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert sanitize(sanitize(text)) == sanitize(text)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=MAX_TEXT))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("evil", "clean"),
    [
        ("\x1b]2;TITLE\x07name", "]2;TITLEname"),
        ("\x9b31mred", "31mred"),
        ("a\tb\r\nc\u2028d", "a b  c d"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\ud800half", "half"),
    ],
)
def test_known_attacks(evil: str, clean: str) -> None:
    assert sanitize(evil) == clean


def test_long_text_says_that_it_was_cut() -> None:
    assert sanitize("x" * 500, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "-"), (-1, "-"), (3.4e-4, "340 us"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (2.14, "2.1 s"),
        (59.94, "59.9 s"), (59.96, "1m00s"), (245, "4m05s"), (3599.6, "1h00m"), (7380, "2h03m"), (9.5 * 86400, "9d12h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@given(st.floats(1e-6, 8e7))
def test_a_duration_fits_its_column(seconds: float) -> None:
    assert len(duration(seconds)) <= 7


@given(st.floats(0, 1e15))
def test_a_short_number_fits_its_column(number: float) -> None:
    assert len(short(number)) <= 7


def test_numbers() -> None:
    assert [count(12340.4), short(8_100_000), short(412), short(3_449), size(412 << 20), size(9448928051)] == [
        "12,340", "8.1M", "412", "3.4k", "412M", "8.8G",
    ]  # fmt: skip
    assert [rate(0), rate(0.21), rate(41.2), percent(0.71), percent(-1)] == ["0", "0.2", "41", "71 %", "-"]
    assert request_id(0x1234_9F31_A2C4) == "9f31a2c4"
