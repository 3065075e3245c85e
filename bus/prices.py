"""The price book: what tokens are charged at. Pure: rows of the configuration in, whole billionths of a currency out.

A request is priced once, when it ends, by the ingress that was its home; ledger, budgets and screens carry that number.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple

from bus.config import PriceConfig

NANO: Final = 1_000_000_000
_MILLION: Final = 1_000_000


class Price(NamedTuple):
    """Billionths per million tokens. `thought` is more of an output token's price where it is one of a thought; it may
    be below zero, but not by more than `output`."""

    input: int
    cached_input: int
    output: int
    thought: int = 0

    def cost(self, prompt: int, cached: int, output: int, reasoning: int = 0) -> int:
        """Of `prompt` tokens, `cached` of them found, and of `output` tokens, `reasoning` of them thought; rounded
        once, half up."""
        parts = (prompt - cached) * self.input + cached * self.cached_input
        parts += output * self.output + reasoning * self.thought
        return (parts + _MILLION // 2) // _MILLION

    @property
    def dearest(self) -> Price:
        """The same where it is not known which of the output will be thought: all of it at the higher price."""
        return self._replace(output=self.output + max(0, self.thought), thought=0)


FREE: Final = Price(0, 0, 0)


def parse_day(text: str) -> int:
    """`"2026-01-31"` as Unix time of its beginning (UTC); empty is 0.

    Raises:
        ValueError: not a day.
    """
    return calendar.timegm(time.strptime(text, "%Y-%m-%d")) if text else 0


class PriceBook:
    """All rows of a configuration."""

    def __init__(self, rows: Sequence[PriceConfig]) -> None:
        self._rows = [(parse_day(row.valid_from), row.model, _price(row)) for row in rows]
        self._rows.sort(key=lambda row: row[0], reverse=True)
        self._of_hour = lru_cache(1024)(self._find)  # prices begin with a day

    def at(self, model: str, now_s: int) -> Price:
        """In force for a model at a moment (Unix time)."""
        return self._of_hour(model, now_s // 3600) if self._rows else FREE

    def __bool__(self) -> bool:
        return bool(self._rows)

    def _find(self, model: str, hour: int) -> Price:
        for begin, pattern, price in self._rows:
            if begin <= hour * 3600 and fnmatchcase(model, pattern):
                return price
        return FREE


def _price(row: PriceConfig) -> Price:
    cached = row.input if row.cached_input is None else row.cached_input
    reasoning = row.output if row.reasoning is None else row.reasoning
    output = round(row.output * NANO)
    return Price(round(row.input * NANO), round(cached * NANO), output, round(reasoning * NANO) - output)
