"""The account of an answer's time as clients get it, where they asked with `include_timing`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from ingress.api.schema_common import CachedTokens, IngressTiming, RequestTiming
from ingress.streams import Finish
from ingress.timing import Timing


def ledger(finish: Finish) -> RequestTiming | UnsetType:
    """Of one choice that has ended; nothing where it was not asked for."""
    timing = finish.timing
    if timing is None:
        return UNSET
    account = timing.total
    return RequestTiming(
        request=f"{timing.request:016x}",
        total_ms=_ms(max(timing.last_ns, timing.received_ns) - timing.received_ns),
        ttft_ms=_ms(timing.first_ns - timing.received_ns) if timing.first_ns else None,
        queue_ms=_ms(account.queue_ns),
        held_ms={why: _ms(ns) for why, ns in account.held},
        prefill_ms=_ms(account.prefill_ns),
        decode_ms=_ms(timing.last_ns - timing.first_ns),
        recovery_ms=_ms(timing.recovering_ns),
        longest_gap_ms=_ms(timing.longest_ns),
        longest_gap_step=timing.longest_step or None,
        longest_gap_after=timing.longest_after if timing.longest_ns else None,
        cached_tokens=CachedTokens(account.memory_tokens, account.disk_tokens),
        computed_tokens=account.computed_tokens,
        chunks=account.chunks,
        # The last chunk of each prefill draws a token; every other token has a step of its own, but for right drafts.
        steps=account.chunks + max(0, timing.tokens - account.placed - account.accepted),
        draft_tokens=account.drafted,
        accepted_draft_tokens=account.accepted,
        tokens=timing.tokens,
        preemptions=account.preemptions,
        resumptions=account.resumptions + max(timing.resubmissions, timing.adoptions),
        ingress=_ingress(timing),
    )


def together(ledgers: Sequence[RequestTiming | UnsetType]) -> RequestTiming | UnsetType:
    """Of all choices of a call: the first one's, with those of all in `choices` where there are several."""
    first, *others = ledgers
    if isinstance(first, UnsetType) or not others:
        return first
    every = [each for each in ledgers if not isinstance(each, UnsetType)]
    return msgspec.structs.replace(first, choices=every)


def _ingress(timing: Timing) -> IngressTiming:
    at = timing.received_ns
    parts: list[float] = []
    for done_ns in (timing.parsed_ns, timing.rendered_ns, timing.tokenized_ns, timing.submitted_ns):
        parts.append(_ms(done_ns - at))
        at = max(at, done_ns)
    parse, template, tokenize, wait = parts
    return IngressTiming(parse, template, tokenize, wait, _ms(timing.text_ns))


def _ms(ns: int) -> float:
    return round(max(0, ns) / 1e6, 3)
