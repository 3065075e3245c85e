"""The sums: percentiles, throughput, goodput, and how two endpoints compare. Pure.

TTFT is from sending a request to its first text; TPOT is the time of all further tokens over their number; ITL is
between one event and the next; goodput counts requests that met both targets (DistServe, OSDI 2024).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from cli.bench.drive import Outcome


class Spread(msgspec.Struct, frozen=True):
    """Of a latency, in seconds."""

    p50: float
    p95: float
    p99: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run against one endpoint."""

    url: str
    model: str
    duration_s: float
    requests: int
    completed: int
    refused: int
    failed: int
    problems: list[str]
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_s: Spread
    tpot_s: Spread
    itl_s: Spread
    e2e_s: Spread
    good: int
    goodput_per_s: float


# What a comparison shows: heading, how to take it from a summary, whether more is better.
MEASURES: Final[tuple[tuple[str, Callable[[Summary], float], bool], ...]] = (
    ("output tokens/s", lambda s: s.output_tokens_per_s, True),
    ("requests/s", lambda s: s.requests_per_s, True),
    ("goodput/s", lambda s: s.goodput_per_s, True),
    ("TTFT p50", lambda s: s.ttft_s.p50, False),
    ("TTFT p95", lambda s: s.ttft_s.p95, False),
    ("TPOT p50", lambda s: s.tpot_s.p50, False),
    ("TPOT p95", lambda s: s.tpot_s.p95, False),
    ("ITL p99", lambda s: s.itl_s.p99, False),
)


class Ratio(msgspec.Struct, frozen=True):
    """The first endpoint over the second: median of the rounds, and the rounds' extremes, which are the noise."""

    measure: str
    more_is_better: bool
    median: float
    low: float
    high: float

    def verdict(self) -> str:
        """Which endpoint is better: "even" where the rounds do not agree."""
        if self.low <= 1.0 <= self.high:
            return "even"
        return "better" if (self.median > 1.0) == self.more_is_better else "worse"


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else 0.0


def spread(values: Sequence[float]) -> Spread:
    """The three percentiles that are looked at."""
    return Spread(percentile(values, 0.50), percentile(values, 0.95), percentile(values, 0.99))


def summarise(
    url: str, model: str, outcomes: Sequence[Outcome], duration_s: float, *, slo_ttft_s: float, slo_tpot_s: float
) -> Summary:
    """One run in numbers."""
    done = [outcome for outcome in outcomes if not outcome.problem]
    refused = sum(outcome.status == 429 for outcome in outcomes)
    ttft = [outcome.arrivals[0] - outcome.sent_s for outcome in done]
    tpot = [tpot_of(outcome) for outcome in done]
    good = sum(first <= slo_ttft_s and each <= slo_tpot_s for first, each in zip(ttft, tpot, strict=True))
    prompt, output = sum(o.prompt_tokens for o in done), sum(o.output_tokens for o in done)
    return Summary(
        url=url,
        model=model,
        duration_s=duration_s,
        requests=len(outcomes),
        completed=len(done),
        refused=refused,
        failed=len(outcomes) - len(done) - refused,
        problems=sorted({outcome.problem for outcome in outcomes if outcome.problem})[:5],
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=len(done) / duration_s,
        output_tokens_per_s=output / duration_s,
        total_tokens_per_s=(prompt + output) / duration_s,
        ttft_s=spread(ttft),
        tpot_s=spread([each for each, outcome in zip(tpot, done, strict=True) if outcome.output_tokens > 1]),
        itl_s=spread([b - a for o in done for a, b in zip(o.arrivals, o.arrivals[1:], strict=False)]),
        e2e_s=spread([outcome.ended_s - outcome.sent_s for outcome in done]),
        good=good,
        goodput_per_s=good / duration_s,
    )


def tpot_of(outcome: Outcome) -> float:
    """Seconds per token after the first; 0 where there is only one."""
    further = outcome.output_tokens - 1
    return (outcome.arrivals[-1] - outcome.arrivals[0]) / further if further > 0 else 0.0


def compare(first: Sequence[Summary], second: Sequence[Summary]) -> list[Ratio]:
    """Ratios of rounds that were run in turns, so that what drifts hits both."""
    found = []
    for name, take, more_is_better in MEASURES:
        ratios = [take(a) / take(b) for a, b in zip(first, second, strict=True) if take(b)]
        if ratios:
            found.append(Ratio(name, more_is_better, statistics.median(ratios), min(ratios), max(ratios)))
    return found
