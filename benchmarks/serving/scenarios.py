"""What is asked of a server, and which figures come of it. Prompts are random token ids: no server finds by chance in
a cache what it did not compute, and every prompt has the length that it is said to have."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

from benchmarks.serving.client import Answer, ask, together

TTFT_S: Final = 2.0  # what a request must keep to count as good
TPOT_S: Final = 0.1
IDS: Final = range(1000, 40_000)  # ordinary tokens in every vocabulary that is served here
CACHED: Final = 1024
DISTURBED: Final = 4  # streams, of so many tokens, beside prompts that arrive at these times
DISTURBED_TOKENS: Final = 256
PROMPTS_AT_S: Final = (1.0, 4.0, 7.0)


class Figure(NamedTuple):
    """One number of a scenario.

    Attributes:
        more: whether more of it is better.
    """

    name: str
    value: float
    unit: str
    more: bool


class Load(NamedTuple):
    """How much is asked.

    Attributes:
        streams: numbers of simultaneous streams.
        tokens: of each stream's answer.
        prompts: lengths of the prompts that are computed.
        repeats: of what is short; medians count.
        rates: of Poisson arrivals, requests a second.
        seconds: that they arrive.
    """

    streams: tuple[int, ...]
    tokens: int
    prompts: tuple[int, ...]
    repeats: int
    rates: tuple[float, ...]
    seconds: float


def run(url: str, model: str, load: Load, seed: int) -> list[Figure]:
    """All scenarios at one server.

    Raises:
        Failed: it did not answer.
    """
    return [
        figure
        for scenario in (
            decode,
            prefill,
            cached,
            disturbed,
            arrivals,
        )  # what one of them draws is not up to those before it
        for figure in scenario(url, model, load, random.Random(f"{seed} {scenario.__name__}"))
    ]


def ids(draw: random.Random, count: int) -> list[int]:
    """A prompt that nobody has seen."""
    return draw.choices(IDS, k=count)


def decode(url: str, model: str, load: Load, draw: random.Random) -> list[Figure]:
    """Tokens a second of all streams, while all of them decode."""
    figures = []
    for count in load.streams:
        tasks = [_asking(url, model, ids(draw, 64), load.tokens) for _ in range(count)]
        figures.append(Figure(f"decode, {count} streams", decoding_rate(together(tasks)), "tok/s", True))
    return figures


def decoding_rate(answers: list[Answer]) -> float:
    """Tokens a second between the moment when the last stream has its first token and when the first one ends."""
    begin, end = max(a.events[0] for a in answers), min(a.events[-1] for a in answers)
    if end <= begin:
        return 0.0
    tokens = sum(sum(begin < at <= end for at in a.events) * a.tokens / len(a.events) for a in answers)
    return tokens / (end - begin)


def prefill(url: str, model: str, load: Load, draw: random.Random) -> list[Figure]:
    """Tokens a second of a prompt alone, to its first token."""
    figures = []
    for length in load.prompts:
        seconds = [ask(url, model, ids(draw, length), 1).ttft_s for _ in range(load.repeats)]
        figures.append(Figure(f"prefill of {length:,}", length / statistics.median(seconds), "tok/s", True))
    return figures


def cached(url: str, model: str, load: Load, draw: random.Random) -> list[Figure]:
    """TTFT of a prompt of which all but some tokens were computed before, over the first time's."""
    ratios, warm = [], []
    for _ in range(load.repeats):
        prefix = ids(draw, CACHED)
        cold = ask(url, model, prefix, 1).ttft_s
        warm.append(ask(url, model, [*prefix, *ids(draw, 8)], 1).ttft_s)
        ratios.append(warm[-1] / cold)
    return [
        Figure(f"TTFT of a cached {CACHED:,}", statistics.median(warm) * 1e3, "ms", False),
        Figure("... over its cold TTFT", statistics.median(ratios), "", False),
    ]


def disturbed(url: str, model: str, load: Load, draw: random.Random) -> list[Figure]:
    """What long prompts do to those who are being answered: the times between two tokens of theirs."""
    length, began = max(load.prompts), time.monotonic()
    streams = [_asking(url, model, ids(draw, 64), DISTURBED_TOKENS) for _ in range(DISTURBED)]
    prompts = [_asking(url, model, ids(draw, length), 1, began + at) for at in PROMPTS_AT_S]
    answers = together([*streams, *prompts])
    running = [[at for at in a.events if at > began + PROMPTS_AT_S[0]] for a in answers[:DISTURBED]]
    gaps = sorted(later - earlier for events in running for earlier, later in pairwise(events))
    name = f"{DISTURBED} streams beside {length:,}"
    return [
        Figure(f"{name}, TPOT", 1e3 * max(a.tpot_s for a in answers[:DISTURBED]), "ms", False),
        Figure(f"{name}, p95", 1e3 * gaps[len(gaps) * 95 // 100], "ms", False),
        Figure(f"{name}, longest", 1e3 * gaps[-1], "ms", False),
        Figure("... TTFT of those prompts", statistics.median(a.ttft_s for a in answers[DISTURBED:]), "s", False),
    ]


def arrivals(url: str, model: str, load: Load, draw: random.Random) -> list[Figure]:
    """Poisson arrivals of mixed lengths: the answers' tokens a second, and those of answers that kept both limits."""
    figures = []
    for rate in load.rates:
        plan, at = [], 0.0
        while (at := at + draw.expovariate(rate)) < load.seconds:
            prompt = min(1024, max(16, int(draw.lognormvariate(5.0, 1.0))))
            answer = min(256, max(8, int(draw.lognormvariate(4.0, 0.8))))
            plan.append((at, ids(draw, prompt), answer))
        began = time.monotonic()
        answers = together([_asking(url, model, prompt, count, began + at) for at, prompt, count in plan])
        took = max(a.events[-1] for a in answers) - began
        good = [a for a in answers if a.ttft_s <= TTFT_S and a.tpot_s <= TPOT_S]
        name = f"Poisson, {rate:g}/s"
        figures += [
            Figure(f"{name}, throughput", sum(a.tokens for a in answers) / took, "tok/s", True),
            Figure(f"{name}, goodput", sum(a.tokens for a in good) / took, "tok/s", True),
            Figure(f"{name}, TTFT p50", statistics.median(a.ttft_s for a in answers) * 1e3, "ms", False),
            Figure(f"{name}, TPOT p95", 1e3 * sorted(a.tpot_s for a in answers)[len(answers) * 95 // 100], "ms", False),
        ]
    return figures


def _asking(url: str, model: str, prompt: list[int], tokens: int, at: float = 0.0) -> Callable[[], Answer]:
    def work() -> Answer:
        time.sleep(max(0.0, at - time.monotonic()))
        return ask(url, model, prompt, tokens)

    return work
