"""From what a request used to what it costs, and from records of that to settlements of budgets."""

from __future__ import annotations

import time
from collections.abc import Callable

from bus.messages.accounts import Settle, Settlement
from bus.messages.usage import UsageRecord
from bus.prices import PriceBook
from ingress.accounts import Used
from ingress.gate.gate import Gate


def charging(gate: Gate | None, prices: PriceBook) -> Callable[[Used], int]:
    """What a request has cost, in billionths; where there is a gate, its reservation is settled with that."""

    def charge(used: Used) -> int:
        model = used.whose.model
        counts = (used.prompt_tokens, used.cached_tokens, used.generated_tokens, used.reasoning_tokens)
        if used.outcome == "cached":
            if gate is not None:
                gate.answered(used.request)
            return 0
        if gate is None:
            return prices.at(model, int(time.time())).cost(*counts)
        return gate.settle(used.request, used.whose.key, model, *counts)

    return charge


def settlements(rid: int, records: tuple[UsageRecord, ...]) -> Settle:
    """A batch for the accounts process."""
    return Settle(
        rid, tuple(Settlement(each.request, each.key, each.model, each.cost_nano, each.ended_ms) for each in records)
    )
