"""`x-ratelimit-*`, as OpenAI names them: where a client stands in the tightest of its limits. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ingress.gate.leases import Bucket

Header = tuple[bytes, bytes]
_TOKENS: Final = frozenset({"input_tokens", "output_tokens", "total_tokens"})


def rate_limit_headers(buckets: Iterable[Bucket], now_ns: int) -> list[Header]:
    """Of requests and of tokens, where those are limited."""
    tightest: dict[bytes, tuple[float, Bucket, int]] = {}
    for bucket in buckets:
        dimension = bucket.allowance.dimension
        kind = b"requests" if dimension == "requests" else b"tokens" if dimension in _TOKENS else b""
        if not kind:
            continue
        remaining = bucket.remaining(now_ns)
        filled = remaining / bucket.allowance.amount
        if kind not in tightest or filled < tightest[kind][0]:
            tightest[kind] = (filled, bucket, remaining)
    found: list[Header] = []
    for kind, (filled, bucket, remaining) in tightest.items():
        found += [
            (b"x-ratelimit-limit-" + kind, b"%d" % bucket.allowance.amount),
            (b"x-ratelimit-remaining-" + kind, b"%d" % remaining),
            (b"x-ratelimit-reset-" + kind, span((1.0 - filled) * bucket.allowance.window_s)),
        ]
    return found


def span(seconds: float) -> bytes:
    """As OpenAI writes it: `120ms`, `6.5s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return b"%dms" % round(seconds * 1000)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest) if hours else b"%dm%ds" % (minutes, rest)
