"""Where the time of the workers' steps went during a run: the difference between two readings of their counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from cli.bench.http import request

Series = tuple[str, tuple[tuple[str, str], ...]]
Counters = Mapping[Series, float]

_PART: Final = "headrace_step_part_seconds_total"


class NoProfile(Exception):
    """The endpoint has no counters of steps. The message says what to do."""


class Part(msgspec.Struct, frozen=True):
    """What steps spent their time on: `seconds` in all, `share` of all parts' time."""

    name: str
    seconds: float
    share: float


class Profile(msgspec.Struct, frozen=True):
    """A run's steps, over all replicas' first ranks.

    Attributes:
        step_s: mean.
        tokens: computed, of prompts and of answers.
        busy: share of the time in which steps ran, of those replicas that made any.
        parts: the longest first.
    """

    steps: int
    step_s: float
    tokens: int
    busy: float
    parts: list[Part]


async def counters(base: str, token: str) -> dict[Series, float]:
    """The series that an endpoint exposes now.

    Args:
        base: as for requests, with its "/v1".

    Raises:
        NoProfile: it has none.
        HttpFailed: it does not answer.
    """
    url = base.removesuffix("/v1") + "/metrics"
    status, body = await request("GET", url, token=token)
    if status != 200:
        raise NoProfile(f"{url} answers {status}: a profile can be had of headrace only")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def profile_of(before: Counters, after: Counters, model: str, elapsed_s: float) -> Profile:
    """Of what happened between two readings, while the endpoint was loaded for `elapsed_s`.

    Raises:
        NoProfile: no worker of the model made a step.
    """

    def grown(name: str) -> dict[str, float]:
        """Over the replicas, by part."""
        found: dict[str, float] = {}
        for (series, labels), value in after.items():
            told = dict(labels)
            if series == name and told.get("model") == model and told.get("rank") == "0":
                part = told.get("part", "")
                found[part] = found.get(part, 0) + value - before.get((series, labels), 0)
        return found

    steps, seconds = (sum(grown(f"headrace_step_seconds_{what}").values()) for what in ("count", "sum"))
    if not steps:
        raise NoProfile(f"no worker of {model!r} counted a step: a profile can be had of headrace only")
    stepping = sum(
        series == "headrace_step_seconds_count" and value > before.get((series, labels), 0)
        for (series, labels), value in after.items()
        if dict(labels).get("model") == model and dict(labels).get("rank") == "0"
    )
    parts = grown(_PART)
    total = sum(parts.values())
    return Profile(
        int(steps), seconds / steps, int(sum(grown("headrace_step_tokens_total").values())),
        min(1.0, seconds / (elapsed_s * stepping)),
        [Part(name, spent, spent / total) for name, spent in sorted(parts.items(), key=lambda part: -part[1])],
    )  # fmt: skip
