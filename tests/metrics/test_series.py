"""Totals survive restarts, windows hold exactly what came in them, and no publisher can fill the memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.messages.telemetry import Series
from metrics.core.series import MAX_SERIES, WINDOW_NS, SeriesStore

SECOND = 1_000_000_000
MODEL = (("model", "m"),)


def counter(value: float, name: str = "c_total") -> Series:
    return Series(name, "counter", MODEL, value)


def gauge(value: float, name: str = "g") -> Series:
    return Series(name, "gauge", MODEL, value)


def histogram(buckets: tuple[int, ...], bounds: tuple[float, ...] = (0.1, 1.0)) -> Series:
    return Series("h_seconds", "histogram", MODEL, float(buckets[-1]), bounds, buckets)


def total(store: SeriesStore, name: str) -> float:
    return sum(track.total().value for family, _, rows in store.families() if family == name for *_, track in rows)


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=5))
def test_a_total_is_the_sum_over_incarnations_and_never_falls(incarnations: list[list[int]]) -> None:
    """Each incarnation counts up from zero by the given steps, then dies."""
    store, now, seen = SeriesStore(), 0, 0.0
    for number, steps in enumerate(incarnations):
        if number:
            store.restarted("p")
        value = 0
        for step in steps:
            now += SECOND
            value += step
            store.take("p", counter(value), now, now - SECOND)
            assert total(store, "c_total") >= seen
            seen = total(store, "c_total")
    assert seen == sum(map(sum, incarnations))


@given(st.lists(st.tuples(st.integers(1, 4 * SECOND), st.integers(0, 9)), min_size=1, max_size=60))
def test_the_window_holds_what_was_added_in_it(steps: list[tuple[int, int]]) -> None:
    """Against the definition: the sum of all steps that arrived later than `WINDOW_NS` ago."""
    store, now, value, arrived = SeriesStore(), 0, 0, []
    for wait, step in steps:
        now += wait
        value += step
        arrived.append((now, step))
        store.take("p", counter(value), now, 0)
        assert store.added("c_total", now, model="m") == sum(s for at, s in arrived if at > now - WINDOW_NS)


def test_a_process_that_counted_before_anyone_looked_adds_nothing_to_the_window() -> None:
    store = SeriesStore()
    store.take("p", counter(1_000_000), SECOND, None)
    assert store.added("c_total", SECOND) == 0
    store.take("p", counter(1_000_007), 2 * SECOND, SECOND)
    assert store.added("c_total", 2 * SECOND) == 7
    assert total(store, "c_total") == 1_000_007


def test_an_instrument_that_appears_in_a_process_that_is_watched_started_at_zero() -> None:
    store = SeriesStore()
    store.take("p", counter(3), 5 * SECOND, 4 * SECOND)
    assert store.added("c_total", 5 * SECOND) == 3


def test_the_window_empties_when_nothing_comes() -> None:
    store = SeriesStore()
    store.take("p", counter(3), SECOND, 0)
    assert store.added("c_total", SECOND + WINDOW_NS - 1) == 3
    assert store.added("c_total", SECOND + WINDOW_NS) == 0


def test_a_counter_that_falls_within_an_incarnation_is_a_reset_at_the_source() -> None:
    store = SeriesStore()
    store.take("p", counter(10), SECOND, 0)
    store.take("p", counter(4), 2 * SECOND, SECOND)
    assert total(store, "c_total") == 14


def test_quantiles_merge_the_histograms_of_all_processes() -> None:
    store = SeriesStore()
    store.take("p", histogram((9, 9, 9)), SECOND, 0)
    store.take("q", histogram((0, 1, 1)), SECOND, 0)
    p50, p95 = store.quantiles("h_seconds", SECOND, (0.5, 0.95), model="m")
    assert p50 < 0.1 < p95


def test_a_restart_with_other_bounds_starts_the_histogram_over() -> None:
    store = SeriesStore()
    store.take("p", histogram((1, 2, 3)), SECOND, 0)
    store.restarted("p")
    store.take("p", histogram((1, 1), bounds=(5.0,)), 2 * SECOND, SECOND)
    assert store.quantiles("h_seconds", 2 * SECOND, (0.5,)) == (2.5,)


def test_gauges_of_a_dead_incarnation_say_nothing() -> None:
    store = SeriesStore()
    store.take("p", gauge(5), SECOND, 0)
    store.take("q", gauge(2), SECOND, 0)
    store.take("p", counter(5), SECOND, 0)
    store.restarted("p")
    assert store.gauge("g", model="m") == 2
    assert total(store, "c_total") == 5
    store.forget("p")
    assert total(store, "c_total") == 0


def test_malformed_series_are_refused_and_counted() -> None:
    store = SeriesStore()
    bad = (
        Series("no spaces", "gauge", (), 1.0),
        Series("bad_label", "gauge", (("a-b", "x"),), 1.0),
        Series("nan", "gauge", (), float("nan")),
        Series("negative_total", "counter", (), -1.0),
        Series("short_seconds", "histogram", (), 1.0, (1.0,), (1,)),
        Series("buckets_on_gauge", "gauge", (), 1.0, (1.0,), (1, 1)),
    )
    for series in bad:
        store.take("p", series, SECOND, None)
    assert store.refused == len(bad)
    assert list(store.families()) == []


def test_an_instrument_keeps_its_kind() -> None:
    store = SeriesStore()
    store.take("p", gauge(1, "x"), SECOND, None)
    store.take("q", counter(1, "x"), SECOND, None)
    store.take("p", counter(1, "x"), SECOND, None)
    assert store.refused == 2
    assert store.gauge("x") == 1


def test_labels_from_outside_cannot_fill_the_memory() -> None:
    store = SeriesStore()
    for number in range(MAX_SERIES + 10):
        store.take("p", Series("c_total", "counter", (("user", str(number)),), 1.0), SECOND, None)
    assert store.refused == 10
    store.forget("p")
    store.take("p", counter(1), SECOND, None)
    assert total(store, "c_total") == 1
