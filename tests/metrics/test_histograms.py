"""Laws of histogram arithmetic: merging loses nothing, quantiles stay where the observations are."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from metrics.core.histograms import added, is_histogram, merged, quantile, removed

BOUNDS = (0.01, 0.1, 1.0, 10.0)
values = st.lists(st.floats(0.0, 20.0), max_size=60)


def histogram(observations: list[float], bounds: tuple[float, ...] = BOUNDS) -> tuple[int, ...]:
    counts = [0] * (len(bounds) + 1)
    for value in observations:
        counts[bisect_left(bounds, value)] += 1
    return tuple(sum(counts[: index + 1]) for index in range(len(counts)))


@given(values, values)
def test_adding_two_histograms_is_the_histogram_of_all_observations(left: list[float], right: list[float]) -> None:
    assert added(histogram(left), histogram(right)) == histogram(left + right)


@given(values, values)
def test_removing_the_earlier_reading_leaves_what_came_after(before: list[float], after: list[float]) -> None:
    assert removed(histogram(before + after), histogram(before)) == histogram(after)


@given(values, values)
def test_histograms_of_different_versions_merge_exactly_over_their_common_bounds(
    left: list[float], right: list[float]
) -> None:
    finer = (0.01, 0.05, 0.1, 0.5, 1.0, 10.0)
    common = (0.01, 0.1, 1.0, 10.0)
    bounds, buckets = merged([(BOUNDS, histogram(left)), (finer, histogram(right, finer))])
    assert bounds == common
    assert buckets == histogram(left + right, common)


@given(st.lists(st.floats(0.0, 9.99), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(observations: list[float], q: float) -> None:
    """Nearest-rank quantile and estimate share a bucket."""
    estimate = quantile(q, BOUNDS, histogram(observations))
    ordered = sorted(observations)
    exact = ordered[max(0, -int(-q * len(ordered) // 1) - 1)]
    bucket = bisect_left(BOUNDS, exact)
    low = BOUNDS[bucket - 1] if bucket else 0.0
    assert low <= estimate <= BOUNDS[bucket]


@given(values)
def test_quantiles_rise_with_q(observations: list[float]) -> None:
    estimates = [quantile(q / 10, BOUNDS, histogram(observations)) for q in range(11)]
    assert estimates == sorted(estimates)


def test_nothing_observed_has_quantile_zero_and_overflow_counts_as_the_last_bound() -> None:
    assert quantile(0.5, BOUNDS, ()) == 0.0
    assert quantile(0.5, BOUNDS, (0, 0, 0, 0, 0)) == 0.0
    assert quantile(0.99, BOUNDS, (0, 0, 0, 0, 7)) == 10.0


def test_what_is_not_a_histogram_is_told_apart() -> None:
    assert is_histogram((1.0, 2.0), (0, 1, 1))
    assert not is_histogram((1.0, 2.0), (0, 1))
    assert not is_histogram((2.0, 1.0), (0, 1, 1))
    assert not is_histogram((1.0, 2.0), (2, 1, 1))
    assert not is_histogram((1.0, float("inf")), (0, 1, 1))
