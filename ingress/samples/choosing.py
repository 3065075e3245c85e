"""Streams of samples in, answers out: all of them, or the best of each prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from ingress.api.choices import collect
from ingress.engine import Piece, Stream
from ingress.samples.best import chosen

Score = Callable[[int, Sequence[Piece]], Awaitable[Sequence[float]]]
"""How good the samples of a prompt are, by the prompt's number: higher is better."""


class Choosing(NamedTuple):
    """How the answers of a call come of its streams.

    Attributes:
        n: answers to a prompt.
        samples: streams of a prompt.
        score: None where all are answers.
    """

    n: int
    samples: int
    score: Score | None = None

    async def answers(self, streams: Sequence[Stream]) -> list[Piece]:
        """Every stream to its end, and of each prompt's the best.

        Raises:
            ApiError: one of them failed, or they cannot be judged.
        """
        samples = await collect(streams)
        if self.score is None:
            return samples
        prompts = [samples[first : first + self.samples] for first in range(0, len(samples), self.samples)]
        scores = await asyncio.gather(*(self.score(number, each) for number, each in enumerate(prompts)))
        return [
            piece
            for each, values in zip(prompts, scores, strict=True)
            for piece in chosen(each, values, self.n)
        ]  # fmt: skip
