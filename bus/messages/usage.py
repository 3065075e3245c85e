"""ingress -> metrics, and anyone <-> metrics: what requests used, and what that cost. On the doors of `observe`.

A record reaches the ledger at least once: an ingress keeps it until it is told that it is written. It counts once: its
id is the request's, and the ledger takes an id once, whoever sends it and how often.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal[
    "stop",  # end of sequence, stop token or stop string
    "length",
    "client",  # the client went away, or cancelled
    "deadline",
    "shutdown",
    "abort",  # an operator's
    "error",
    "discarded",  # another model was asked, as the answer did not pass a check
    "cached",  # it came to its end without a model: from the cache, or from a generation that others had asked for
    "rejected",  # turned away: a limit, a budget, a model that is not allowed, too much work
]

Grouping = Literal["model", "tenant", "key", "hour", "day", "request", "organisation", "project", "call"]


class UsageRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt: a request that was accepted and has ended, or was turned away.

    Attributes:
        ended_ms: Unix time.
        tenant, key: whose it was; empty where nobody is told apart.
        prompt_tokens: 0 for a further choice of a prompt that was counted with the first, as in answers' usage.
        cached_tokens: of these, those whose KV was found.
        compute_ns: its part of the steps that it was in, times the cores (or GPUs) that computed them; `prefill_ns` is
            what of it was prefill.
        duration_ns: from the request's arrival to its end.
        cost_nano: what it is charged at by `[[price]]`, in billionths of the currency.
        call: number that it has in common with the other samples of its call; 0 where it is the only one.
        allowed: tokens that all samples of its call might generate (`max_total_tokens`); 0 where nobody said so.
        reasoning_tokens: of the generated ones, those that were thought.
    """

    request: int
    ended_ms: int
    model: str
    tenant: str
    key: str
    outcome: Outcome
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    compute_ns: int = 0
    prefill_ns: int = 0
    duration_ns: int = 0
    cost_nano: int = 0
    call: int = 0
    allowed: int = 0
    reasoning_tokens: int = 0


class TakeUsage(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=50):
    """Write these. Answered by `UsageTaken` when they are on disk; not at all while that cannot be done."""

    rid: int
    records: tuple[UsageRecord, ...]


class UsageTaken(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=51):
    """They are in the ledger."""

    rid: int


class GetUsage(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=52):
    """What was used since a moment, by what it is grouped by.

    Attributes:
        since_s: Unix time; the hour (or the day, beyond 40 days) that it falls into counts in full.
        model: only this one; empty is all.
        limit: most groups; the latest of "hour", "day", "request" and "call", the largest of everything else.
        key, project: only this key, or this organisation or project; empty is all.
    """

    rid: int
    since_s: int
    by: Grouping = "model"
    model: str = ""
    limit: int = 1000
    key: str = ""
    project: str = ""


class UsageRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One group of requests. A cost is 0 where no price is configured.

    Attributes:
        group: a model, tenant or key, the beginning of an hour or day (UTC, ISO 8601), or a request's id.
        failed: of `requests`, those that ended by "error", "shutdown" or "deadline".
        cost: of `compute_s`.
        prefill_s: what of `compute_s` was prefill.
        rejected: attempts that were turned away; `requests` does not count them.
        cached: of `requests`, those that were answered without a model.
        charged_nano: by the price book, in billionths of the currency.
        allowed: of a request or a call, tokens that all samples of the call might generate; 0 where nobody said so.
        reasoning_tokens: of the generated ones, those that were thought.
    """

    group: str
    requests: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    compute_s: float
    prefill_s: float
    cost: float
    model: str = ""
    outcome: str = ""
    rejected: int = 0
    cached: int = 0
    charged_nano: int = 0
    allowed: int = 0
    reasoning_tokens: int = 0


class HostUsage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The host in the same time.

    Attributes:
        up_s: how long it was watched.
        core_s: core seconds that it had meanwhile.
        utilisation: which part of them went into requests.
        cost: of the host; `idle_cost` is what of it went into no request.
    """

    up_s: float
    core_s: float
    utilisation: float
    cost: float
    idle_cost: float


class UsageReply(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=53):
    """Answer to `GetUsage`.

    Attributes:
        since_s: from when on it is.
        more: groups that the limit left out.
        currency: of the costs; empty where no price is configured.
        problem: why the ledger cannot be read or written at present; empty where it can.
    """

    rid: int
    since_s: int
    until_s: int
    rows: tuple[UsageRow, ...]
    total: UsageRow
    host: HostUsage
    more: int = 0
    currency: str = ""
    problem: str = ""
