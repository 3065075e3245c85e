"""`headrace bench` from question to table."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from itertools import cycle
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from cli.bench.drive import models_of, run
from cli.bench.http import HttpFailed
from cli.bench.load import BadTrace, Job, lognormal_lengths, make_jobs, trace_lengths
from cli.bench.profile import NoProfile, Profile, counters, profile_of
from cli.bench.report import Ratio, Spread, Summary, compare, summarise

_ROUNDS: Final = 3  # of a comparison
_SETTLING_S: Final = 1.5  # processes publish their counters twice a second


class Asked(msgspec.Struct, frozen=True):
    """What to measure; `headrace bench --help` explains each."""

    urls: list[str]
    model: str
    trace: Path | None
    lognormal: bool
    requests: int
    concurrency: int
    rate: float
    max_prompt: int
    max_output: int
    slo_ttft_s: float
    slo_tpot_s: float
    seed: int
    profile: bool


class Result(msgspec.Struct, frozen=True):
    """What was measured, in `headrace bench --json`: the rounds of each endpoint, and the ratios of two.

    Attributes:
        profile: of the first endpoint, over all of its rounds; None where it was not asked for.
    """

    asked: Asked
    runs: dict[str, list[Summary]]
    ratios: list[Ratio]
    profile: Profile | None


def measure(asked: Asked, *, as_json: bool) -> int:
    """Run it and print it. Exit code 1 where an endpoint does not answer or a request failed."""
    asked = msgspec.structs.replace(asked, urls=[url.rstrip("/") for url in asked.urls])
    if len(set(asked.urls)) != len(asked.urls) or asked.requests < 1:
        print("two different endpoints and at least one request are needed", file=sys.stderr)
        return 2
    try:
        result = uvloop.run(_measure(asked))
    except (HttpFailed, BadTrace, NoProfile) as error:
        print(f"{error}; is it up? headrace status" if isinstance(error, HttpFailed) else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        _print(result)
    return 0 if all(run.completed == run.requests for runs in result.runs.values() for run in runs) else 1


async def _measure(asked: Asked) -> Result:
    token = os.environ.get("OPENAI_API_KEY", "")
    names = {url: asked.model or (await models_of(url, token))[0] for url in asked.urls}
    runs: dict[str, list[Summary]] = {url: [] for url in asked.urls}
    before = await counters(asked.urls[0], token) if asked.profile else {}
    for number in range(_ROUNDS if len(asked.urls) > 1 else 1):
        # In turns, and turned round each time: heat and caches of the machine favour neither.
        for url in asked.urls if number % 2 == 0 else asked.urls[::-1]:
            jobs = _jobs(asked, number)
            warm = [job._replace(output_tokens=min(8, job.output_tokens)) for job in _jobs(asked, -1)[:1]]
            await run(url, names[url], warm, concurrency=1, token=token)
            concurrency = 0 if asked.rate else asked.concurrency
            outcomes, seconds = await run(url, names[url], jobs, concurrency=concurrency, token=token)
            runs[url].append(
                summarise(url, names[url], outcomes, seconds, slo_ttft_s=asked.slo_ttft_s, slo_tpot_s=asked.slo_tpot_s)
            )
    profile = None
    if asked.profile:
        await asyncio.sleep(_SETTLING_S)
        elapsed_s = sum(summary.duration_s for summary in runs[asked.urls[0]])
        profile = profile_of(before, await counters(asked.urls[0], token), names[asked.urls[0]], elapsed_s)
    return Result(asked, runs, compare(*runs.values()) if len(runs) == 2 else [], profile)


def _jobs(asked: Asked, number: int) -> list[Job]:
    """The same for every endpoint, and others each round: what one round left in a cache must not serve the next."""
    seed = asked.seed * 1000 + number
    lengths = lognormal_lengths(random.Random(seed)) if asked.lognormal else cycle(trace_lengths(asked.trace))
    return make_jobs(
        lengths, asked.requests, max_prompt=asked.max_prompt, max_output=asked.max_output, rate=asked.rate, seed=seed
    )


def _print(result: Result) -> None:
    console = Console(highlight=False)
    for url, runs in result.runs.items():
        for number, summary in enumerate(runs, start=1):
            _print_summary(console, url, f", round {number}" if len(runs) > 1 else "", summary, result.asked)
    if result.profile is not None:
        _print_profile(console, result.profile)
    if not result.ratios:
        return
    first, second = result.asked.urls
    table = Table(title=f"{first} over {second}", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "ratio", f"of {_ROUNDS} rounds", ""):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for ratio in result.ratios:
        table.add_row(ratio.measure, f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}", ratio.verdict())
    console.print(table)


def _print_profile(console: Console, profile: Profile) -> None:
    console.print(
        f"\n{profile.steps} steps of {profile.step_s * 1e3:.2f} ms, {profile.tokens} tokens computed;"
        f" steps ran {profile.busy:.1%} of the time",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("a step's time", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "a step's time" else "right")
    for part in profile.parts:
        table.add_row(part.name, f"{part.seconds / profile.steps * 1e3:.3f}", f"{part.share:.1%}")
    console.print(table)


def _print_summary(console: Console, url: str, which: str, summary: Summary, asked: Asked) -> None:
    console.print(f"\n{url}  {summary.model}{which}", markup=False, soft_wrap=True)
    console.print(
        f"{summary.completed} of {summary.requests} requests in {summary.duration_s:.1f} s"
        f" ({summary.refused} refused, {summary.failed} failed), {summary.prompt_tokens} prompt tokens\n"
        f"{summary.output_tokens_per_s:.1f} output tokens/s, {summary.requests_per_s:.2f} requests/s, "
        f"goodput {summary.goodput_per_s:.2f}/s ({summary.good} within TTFT {asked.slo_ttft_s:g} s "
        f"and TPOT {asked.slo_tpot_s:g} s)",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("", "p50", "p95", "p99"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, spread in (
        ("TTFT", summary.ttft_s), ("TPOT", summary.tpot_s), ("ITL", summary.itl_s), ("end to end", summary.e2e_s),
    ):  # fmt: skip
        table.add_row(name, *_milliseconds(spread))
    console.print(table)
    for problem in summary.problems:
        console.print(f"  {problem}", markup=False, style="red", soft_wrap=True)


def _milliseconds(spread: Spread) -> tuple[str, str, str]:
    return f"{spread.p50 * 1e3:.1f} ms", f"{spread.p95 * 1e3:.1f} ms", f"{spread.p99 * 1e3:.1f} ms"
