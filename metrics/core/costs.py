"""What computing costs on this host. Pure arithmetic on configured prices; what was used is the ledger's.

A host costs its price whether it works or not, and draws power by how busy it is. A core second of a request is its
share of a busy host; a core second of nobody is its share of an idle one: both together are what the host cost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from bus.config import CostConfig


class Rate(NamedTuple):
    """Prices in force from `since_s` (Unix time) on. The fields after `cores` are those of `[cost]`."""

    since_s: int
    cores: int
    currency: str
    price_per_hour: float
    price_per_kwh: float
    watts_idle: float
    watts_busy: float

    @property
    def priced(self) -> bool:
        """Whether anything has a price."""
        return self.price_per_hour > 0 or self.price_per_kwh > 0

    @property
    def busy_hour(self) -> float:
        """Of the host with all cores at work."""
        return self.price_per_hour + self.watts_busy / 1000 * self.price_per_kwh

    @property
    def idle_hour(self) -> float:
        """Of the host with nothing to do."""
        return self.price_per_hour + self.watts_idle / 1000 * self.price_per_kwh

    def of_compute(self, core_s: float) -> float:
        """Cost of core seconds of requests."""
        return core_s / self.cores / 3600 * self.busy_hour

    def of_idle(self, core_s: float) -> float:
        """Cost of core seconds of nobody."""
        return core_s / self.cores / 3600 * self.idle_hour


def rate_of(config: CostConfig, cores: int, now_s: int) -> Rate:
    """What is configured, from now on."""
    return Rate(
        now_s, cores, config.currency, config.price_per_hour, config.price_per_kwh, config.watts_idle, config.watts_busy
    )


def rate_at(rates: Sequence[Rate], at_s: int) -> Rate:
    """The rate in force at a moment; before the first one, that one. `rates` are in order of time."""
    return rates[max(0, bisect_right(rates, at_s, key=lambda rate: rate.since_s) - 1)]
