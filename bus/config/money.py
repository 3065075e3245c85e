"""`[accounts]`, `[[price]]`, `[cost]`, `[usage]`: who may, what it costs them and us, and what is written down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta

from bus.config.section import NotNegative, Positive, Problem, Section


class AccountsConfig(Section, frozen=True):
    """`[accounts]`: who may use the API, and how much.

    Attributes:
        keys: "off" serves everybody; "required" serves who shows a key of `headrace keys create`, within its limits and
            budgets, and runs `accounts@host`, which keeps them.
        unleased_s: while `accounts@host` is down, and what was leased of a limit is used up, requests go on for so many
            seconds. Budgets never do.
        share: part of a limit or budget that an ingress takes ahead.
    """

    keys: Literal["off", "required"] = "off"
    unleased_s: NotNegative = 30.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05


class PriceConfig(Section, frozen=True):
    """`[[price]]`: what tokens are charged at, in the currency of `[cost]`. The latest row that a model matches, and
    that has begun, holds; what no row matches is free.

    Attributes:
        model: a served name, or a pattern with `*`.
        valid_from: day on which it begins (UTC), as 2026-01-31; empty is always.
        input, cached_input, output, reasoning: per million tokens. Prompt tokens whose KV was found are charged as
            `cached_input`, and by `input` where that is not given; tokens of a thought as `reasoning`, and by `output`
            where that is not given.
    """

    model: str
    input: NotNegative
    output: NotNegative
    cached_input: NotNegative | None = None
    valid_from: str = ""
    reasoning: NotNegative | None = None


class CostConfig(Section, frozen=True):
    """`[cost]`: what the host costs, so that `headrace usage` can say what requests cost. 0 is no price.

    Attributes:
        price_per_hour: of the host, whether it works or not.
        currency: of both prices.
        price_per_kwh: of energy; needs `watts_busy`.
        watts_idle, watts_busy: what the host draws with nothing to do, and with all cores at work.
    """

    price_per_hour: NotNegative = 0.0
    currency: str = "EUR"
    price_per_kwh: NotNegative = 0.0
    watts_idle: NotNegative = 0.0
    watts_busy: NotNegative = 0.0


class UsageConfig(Section, frozen=True):
    """`[usage]`: the ledger of what requests used, in the state directory.

    Attributes:
        ledger: whether it is kept.
        keep_requests_days, keep_hours_days, keep_days: how long each request, each hour and each day is kept.
    """

    ledger: bool = True
    keep_requests_days: Positive = 35
    keep_hours_days: Positive = 400
    keep_days: Positive = 3650


def problems(cost: CostConfig, price: tuple[PriceConfig, ...]) -> Iterator[Problem]:
    """What types cannot say."""
    if cost.price_per_kwh and not cost.watts_busy:
        yield ("cost", "price_per_kwh"), "energy has a price, but watts_busy does not say how much is used"
    if cost.watts_busy < cost.watts_idle:
        yield ("cost", "watts_busy"), f"less than watts_idle ({cost.watts_idle:g})"
    for index, row in enumerate(price):
        if not _is_day(row.valid_from):
            yield ("price", index, "valid_from"), f"{row.valid_from!r} is not a day; write 2026-01-31"


def _is_day(text: str) -> bool:
    if not text:
        return True
    try:
        return bool(time.strptime(text, "%Y-%m-%d"))
    except ValueError:
        return False
