"""What is asked: lengths from a trace or a distribution, prompts of exactly these lengths, arrivals. Pure, seeded."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

# Fitted to all 19,366 requests of the trace that `data/` holds the beginning of: mean and deviation of the logarithm.
_PROMPT_LOGNORMAL: Final = (6.63, 0.99)
_OUTPUT_LOGNORMAL: Final = (5.02, 0.86)

# Ids that are ordinary tokens in every vocabulary of 32k and more: above bytes and control tokens.
_IDS: Final = (1_000, 30_000)


class BadTrace(ValueError):
    """A trace file cannot be used; the message says where."""


class Job(NamedTuple):
    """One request: a prompt as token ids, and how many tokens are wanted. `after_s` is since the one before."""

    prompt: list[int]
    output_tokens: int
    after_s: float


def trace_lengths(path: Path | None) -> list[tuple[int, int]]:
    """Pairs of prompt and output tokens, in the order of the trace; the sample that comes with headrace without a path.

    Raises:
        BadTrace: no such file, or not a CSV with the columns input_tokens and output_tokens.
    """
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path is not None
            else resources.files("cli.bench").joinpath("data/azure-2023-conversation.csv").read_text(encoding="utf-8")
        )
        lengths = [(int(row["input_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(text.splitlines())]
    except (OSError, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: cannot be read: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise BadTrace(f"{path}: expected a CSV with columns input_tokens and output_tokens: {error}") from None
    if not lengths:
        raise BadTrace(f"{path}: holds no request")
    return lengths


def lognormal_lengths(draw: random.Random) -> Iterator[tuple[int, int]]:
    """Pairs without end, distributed as the trace is."""
    while True:
        yield round(draw.lognormvariate(*_PROMPT_LOGNORMAL)), round(draw.lognormvariate(*_OUTPUT_LOGNORMAL))


def make_jobs(
    lengths: Iterator[tuple[int, int]], count: int, *, max_prompt: int, max_output: int, rate: float, seed: int
) -> list[Job]:
    """Requests with these lengths, cut to the limits. Prompts share nothing: no prefix cache answers for the engine.

    Args:
        lengths: pairs of prompt and output tokens; at least `count`.
        rate: requests a second, Poisson; 0 leaves no time between them.
    """
    draw = random.Random(seed)
    jobs = []
    for _ in range(count):
        prompt, output = next(lengths)
        ids = [draw.randrange(*_IDS) for _ in range(max(1, min(prompt, max_prompt)))]
        jobs.append(Job(ids, max(1, min(output, max_output)), draw.expovariate(rate) if rate else 0.0))
    return jobs
