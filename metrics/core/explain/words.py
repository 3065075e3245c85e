"""Causes of waits as sentences, and what took longest in one. Pure; no causes are found here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bus.messages.observe import Span
from bus.messages.vitals import StepLine

# What is as it should be; anything else is a wait that somebody or something caused.
WORK: Final = frozenset({"parse", "template", "tokenise", "submit", "chunk", "hit", "decode", "text", "write"})

# Causes of waits before a slot; `HeldFor` and a few more. {n} is the event's value.
WAITS: Final[dict[str, str]] = {
    "turn": "waited its turn",
    "slots": "all slots were taken ({n} requests ran)",
    "replica": "no replica was ready",
    "pages": "waited for {n} pages; most were held by those who ran",
    "lookup": "the page server was asked which blocks of the prompt it has",
    "disk": "{n} tokens of the prompt came from disk",
    "adapter": "its adapter was not in memory yet",
    "sibling": "another request computed the same prefix",
    "backlog": "the replicas had {n} tokens of other prompts to compute first",
    "suspect": "it was in steps that failed, and was tried apart from others",
    "refused": "the scheduler refused it for now; the ingress tried again",
    "scheduler-wait": "its scheduler had no replica yet, or was away",
}

BOUNDS: Final[dict[str, str]] = {
    "kv_pages": "pages are short",
    "token_budget": "step_tokens is reached",
    "inter_token_target": "more would have held up those who decode",
}

_IN_SHORT: Final[dict[str, str]] = {
    "parse": "reading the request",
    "template": "rendering its template",
    "tokenise": "tokenising",
    "submit": "handing it to its scheduler",
    "turn": "waiting its turn in the queue",
    "slots": "waiting for a slot",
    "replica": "waiting for a replica",
    "pages": "waiting for pages",
    "lookup": "waiting for the page server's answer",
    "disk": "waiting for pages from disk",
    "adapter": "waiting for its adapter",
    "sibling": "waiting for a request with the same prefix",
    "backlog": "waiting for other prompts to be computed",
    "suspect": "waiting to be tried after a failure",
    "refused": "waiting to be taken again",
    "scheduler-wait": "waiting for its scheduler",
    "steps": "waiting to be in a step",
    "chunk": "computing its prompt",
    "decode": "decoding",
    "prompts": "prompts of others in the same steps",
    "starved": "having no page to go on with",
    "slow-step": "steps that ran longer than they should",
    "plan-late": "the worker waiting for plans",
    "held-up": "messages between scheduler and worker",
    "unknown": "a pause that no step explains",
    "preempted": "having given its pages to others",
    "worker-lost": "the failure of its replica",
    "scheduler-lost": "the death of its scheduler",
    "ingress-lost": "the death of its ingress",
    "text": "making text of tokens",
    "write": "writing the answer",
    "client": "a client that reads slowly",
}


def span(ns: int) -> str:
    """A stretch of time for people."""
    ms = ns / 1e6
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s" if ms < 60_000 else f"{ms / 1000:.0f} s"


def short_id(request: int) -> str:
    """As screens show it."""
    return f"{request:08x}"[-8:]


def named(requests: Sequence[int]) -> str:
    """Some requests by their ids."""
    return ", ".join(map(short_id, requests))


def wait(cause: str, value: int, others: Sequence[int]) -> str:
    """Why it had no slot."""
    text = WAITS.get(cause, f"waited: {cause}").replace("{n}", f"{value:,}")
    return f"{text}: {named(others)}" if others else text


def chunk(tokens: int, line: StepLine | None, step: int, own: int) -> str:
    """What a chunk's step was."""
    if line is None:
        return f"{tokens:,} tokens in step {step}"
    others = [f"{count:,} of {short_id(request)}" for request, count in line.chunks if request != own]
    also = [f"{line.decodes} decodes"] if line.decodes else []
    also += [f"prompts of others ({', '.join(others)})"] if others else []
    text = f"{tokens:,} tokens in step {step}, {span(line.ran_ns)} on the worker"
    text += f" with {' and '.join(also)}" if also else ""
    if (why := BOUNDS.get(line.bound)) is not None:
        text += f"; no more in it since {why}"
    return text + slower(line)


def slower(line: StepLine) -> str:
    """Where a step was far off its model."""
    return f"; {span(line.predicted_ns)} were expected" if is_slow(line) else ""


def is_slow(line: StepLine) -> bool:
    """Whether a step ran far longer than the model of it, which it has taught, says."""
    return line.predicted_ns > 0 and line.ran_ns > 2 * line.predicted_ns + 20_000_000


def verdict(spans: Sequence[Span], *, ended: bool) -> str:
    """What took longest, and why, in one sentence; empty where nothing took any time."""
    if not spans:
        return ""
    whole = spans[-1].end_ns - spans[0].begin_ns
    by_cause: dict[str, int] = {}
    for part in spans:
        by_cause[part.cause] = by_cause.get(part.cause, 0) + part.end_ns - part.begin_ns
    if whole <= 0:
        return ""
    waits = {cause: ns for cause, ns in by_cause.items() if cause not in WORK}
    cause = max(by_cause, key=lambda key: by_cause[key])
    text = f"{span(by_cause[cause])} of {span(whole)}{'' if ended else ' so far'} went into {in_short(cause)}"
    longest = max((part for part in spans if part.cause == cause), key=lambda part: part.end_ns - part.begin_ns)
    if cause in waits:
        return f"{text}: {longest.text}"
    if waits and (worst := max(waits, key=lambda key: waits[key])) and waits[worst] >= 0.1 * whole:
        longest = max((part for part in spans if part.cause == worst), key=lambda part: part.end_ns - part.begin_ns)
        return f"{text}, {span(waits[worst])} into {in_short(worst)}: {longest.text}"
    return f"{text}; nothing held it up for long"


def in_short(cause: str) -> str:
    """A cause as what time went into."""
    return _IN_SHORT.get(cause, cause)
