"""The best of the samples of one prompt, and their account. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ingress.streams import Finish, Piece

BLOCKED = float("-inf")


def mean_logprob(sample: Piece) -> float:
    """Of a sample's tokens, the one that stopped it included, as OpenAI ranks them; the worst where there are none."""
    values = [value.chosen for value in sample.raw if value is not None] or [each.logprob for each in sample.logprobs]
    return sum(values) / len(values) if values else BLOCKED


def ranked(samples: Sequence[Piece], scores: Sequence[float]) -> list[int]:
    """Numbers of samples, the best first; of equals the earlier. One that a guard did not let pass is behind all that
    are let pass."""

    def key(number: int) -> tuple[bool, float]:
        finish, score = samples[number].finish, scores[number]
        blocked = finish is not None and finish.reason == "content_filter"
        return blocked, -(score if score == score else BLOCKED)

    return sorted(range(len(samples)), key=key)


def chosen(samples: Sequence[Piece], scores: Sequence[float], n: int) -> list[Piece]:
    """The `n` best of a prompt, with the account of all: what the others drew stands with the first, and so does what
    was found of the prompt by the sample that came first."""
    numbers = ranked(samples, scores)
    best = [samples[number] for number in numbers[:n]]
    others = sum(_finish(samples[number]).usage.completion_tokens for number in numbers[n:])
    first = _finish(best[0])
    usage = replace(first.usage, cached_tokens=_finish(samples[0]).usage.cached_tokens, others=others)
    return [replace(best[0], finish=replace(first, usage=usage)), *best[1:]]


def _finish(sample: Piece) -> Finish:
    assert sample.finish is not None
    return sample.finish
