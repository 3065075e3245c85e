"""Outcomes against undisturbed answers. What is not exactly as it would have been is a violation. Pure.

| kind      | what happened                                                             |
|-----------|---------------------------------------------------------------------------|
| refused   | the request was not taken, and undisturbed it would have been             |
| failed    | it was taken, and ended in an error or not at all                         |
| lost      | tokens are missing                                                        |
| repeated  | tokens came twice                                                         |
| changed   | tokens, text, finish reason or log probabilities are others               |
| usage     | the account is wrong                                                      |
| events    | event ids with a gap or a repetition, words after the end, a second end   |
| broke     | a connection broke though no ingress had been struck                      |
| pages, processes, growth | what an audit found                                        |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from chaos.answer import Answer, Choice
from chaos.outcome import Outcome

Kind = Literal[
    "refused", "failed", "lost", "repeated", "changed", "usage", "events", "broke", "pages", "processes", "growth"
]

# Which kernel multiplies a matrix depends on how many rows are in the batch, and rounds differently; measured 4e-5.
LOGPROB_TOLERANCE: Final = 5e-4
BREAK_S: Final = 60.0  # so long after an ingress was struck a connection may break: one that hangs is found by then


class Violation(msgspec.Struct, frozen=True):
    """What went wrong, and what it takes to see it again."""

    kind: Kind
    what: str
    entry: str = ""
    request: str = ""
    response: str = ""
    at: float = 0.0


def violations(outcome: Outcome, expected: Answer, ingress_struck: Sequence[float]) -> Iterator[Violation]:
    """What is wrong with one outcome.

    Args:
        expected: the undisturbed answer.
        ingress_struck: when ingresses were, CLOCK_MONOTONIC seconds.
    """
    request = outcome.request
    how = f"#{request.number} {request.door} {'stream' if request.stream else 'whole'} {request.manners}"

    def said(kind: Kind, what: str) -> Violation:
        return Violation(kind, what, request.entry, how, outcome.response, round(outcome.ended, 3))

    for broke in outcome.breaks:
        if not any(0 <= broke - struck < BREAK_S for struck in ingress_struck):
            yield said("broke", "a connection broke, and no ingress had been struck")
            break
    for oddity in outcome.oddities:
        yield said("events", oddity)
    if outcome.error:
        begun = outcome.times or outcome.response
        yield said("failed" if begun else "refused", outcome.error)
    elif not outcome.complete and not outcome.left:
        yield said("failed", "it ended without an end")
    for index, choice in expected.choices.items():
        got = outcome.answer.choices.get(index, Choice())
        for kind, what in _choice(got, choice, outcome.complete):
            yield said(kind, f"choice {index}: {what}")
    if strange := outcome.answer.choices.keys() - expected.choices.keys():
        yield said("changed", f"choices that there should not be: {sorted(strange)}")
    if outcome.complete:
        yield from (said("usage", what) for what in _usage(outcome.answer, expected))


def _choice(got: Choice, expected: Choice, complete: bool) -> Iterator[tuple[Kind, str]]:
    tokens = expected.tokens if complete else expected.tokens[: len(got.tokens)]
    if got.tokens != tokens:
        yield _tokens(got.tokens, expected.tokens)
    elif not (got.text == expected.text if complete else expected.text.startswith(got.text)):
        at = _first_difference(got.text, expected.text)
        yield "changed", f"text differs from character {at}: {got.text[at:][:40]!r} for {expected.text[at:][:40]!r}"
    elif complete and (got.finish_reason, got.stop_reason) != (expected.finish_reason, expected.stop_reason):
        reasons = (got.finish_reason, got.stop_reason), (expected.finish_reason, expected.stop_reason)
        yield "changed", f"finished for {reasons[0]}, not for {reasons[1]}"
    if complete and got.ends != 1:
        yield "events", f"it was said to have ended {got.ends} times"
    for name, mine, theirs in (
        ("log probabilities", got.logprobs, expected.logprobs),
        ("log probabilities of the prompt", got.prompt_logprobs, expected.prompt_logprobs),
    ):
        if complete and len(mine) != len(theirs):
            yield "lost" if len(mine) < len(theirs) else "repeated", f"{len(mine)} {name}, not {len(theirs)}"
        for at, (entry, right) in enumerate(zip(mine, theirs, strict=False)):
            if not close(entry, right):
                yield "changed", f"{name} of token {at}: {entry} for {right}"
                break


def _tokens(got: list[int], expected: list[int]) -> tuple[Kind, str]:
    at = _first_difference(got, expected)
    detail = f"of {len(expected)} tokens, from number {at} on: {got[at : at + 8]} for {expected[at : at + 8]}"
    if got == expected[: len(got)]:
        return "lost", f"the last {len(expected) - len(got)} are missing, {detail}"
    rest = got[at:]
    for shift in range(1, max(len(got), len(expected))):
        if shift <= at and rest[:8] == expected[at - shift :][: len(rest[:8])]:
            return "repeated", f"{shift} came twice, {detail}"
        if rest[:8] == expected[at + shift :][:8] and rest:
            return "lost", f"{shift} are missing, {detail}"
    return "changed", detail


def _usage(got: Answer, expected: Answer) -> Iterator[str]:
    counted = got.prompt_tokens, got.completion_tokens
    if counted != (right := (expected.prompt_tokens, expected.completion_tokens)):
        yield f"{counted[0]} + {counted[1]} tokens, not {right[0]} + {right[1]}"
    if not 0 <= got.cached_tokens <= got.prompt_tokens:
        yield f"{got.cached_tokens} of {got.prompt_tokens} prompt tokens are said to have been cached"


def close(mine: Any, theirs: Any) -> bool:
    """Equal, but for the last bits of floats."""
    if isinstance(theirs, float):
        return isinstance(mine, float | int) and math.isclose(mine, theirs, rel_tol=0, abs_tol=LOGPROB_TOLERANCE)
    if isinstance(theirs, dict):
        # Alternatives by token: of two that are equally likely, now the one is named and now the other.
        return isinstance(mine, dict) and len(mine) == len(theirs) and all(
            name not in mine or close(mine[name], value) for name, value in theirs.items()
        )  # fmt: skip
    if isinstance(theirs, list):
        return isinstance(mine, list) and len(mine) == len(theirs) and all(map(close, mine, theirs))
    return bool(mine == theirs)


def _first_difference(mine: Sequence[Any], theirs: Sequence[Any]) -> int:
    for at, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            return at
    return min(len(mine), len(theirs))
