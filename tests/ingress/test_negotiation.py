"""What a scraper accepts, and what a client says of its trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.api.exposition import wants_openmetrics
from ingress.api.jobs import traceparent

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        (PROMETHEUS, True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("text/plain;q=0.9, application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("text/plain, application/openmetrics-text;version=1.0.0", False),
        ("application/openmetrics-text;version=1.0.0, text/plain", True),
        ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)
def test_openmetrics_is_for_those_who_prefer_it(accept: str, wants: bool) -> None:
    assert wants_openmetrics(accept) is wants


@given(st.text())
def test_any_accept_header_means_something(accept: str) -> None:
    assert wants_openmetrics(accept) in (True, False)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (GIVEN, GIVEN),
        (f"  {GIVEN} ", GIVEN),
        (GIVEN + "-more", ""),
        ("cc" + GIVEN[2:] + "-what-will-be", GIVEN),
        ("cc" + GIVEN[2:], GIVEN),
        ("ff" + GIVEN[2:], ""),
        (GIVEN.upper(), ""),
        (GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), ""),
        (GIVEN.replace("00f067aa0ba902b7", "0" * 16), ""),
        (GIVEN[:-1], ""),
        ("", ""),
    ],
)
def test_a_traceparent_is_one_or_is_nothing(given_: str, kept: str) -> None:
    assert traceparent(given_) == kept


@given(st.text())
def test_what_is_kept_of_it_is_of_a_bounded_length(text: str) -> None:
    assert len(traceparent(text)) in (0, 55)
