"""Periods of budgets: what was spent counts in a slot of time, and a period is one slot or the last few. Pure.

A calendar period is one slot, from its beginning (UTC). A period that rolls is thirty slots: money spent at the
beginning of a slot counts until all of the slot is older than the period, so up to a thirtieth longer than it says.
"""

from __future__ import annotations

import calendar
import time
from typing import Final

DAY: Final = 86400
SLOTS: Final = 30
SHORTEST_S: Final = 60
LONGEST_S: Final = 400 * DAY
NAMED: Final = ("day", "week", "month", "total")


class BadPeriod(ValueError):
    """Not a period; the message says what is."""


def check(period: str) -> None:
    """Whether it is one.

    Raises:
        BadPeriod: see there.
    """
    if period in NAMED:
        return
    if not (period.isascii() and period.isdigit()) or not SHORTEST_S <= int(period[:12]) <= LONGEST_S:
        raise BadPeriod(
            f"{period!r} is no period: {', '.join(NAMED)}, or {SHORTEST_S} to {LONGEST_S} seconds that roll"
        )


def slot(period: str, at_s: int) -> int:
    """The beginning (Unix time) of the slot that a moment is in."""
    match period:
        case "total":
            return 0
        case "day":
            return at_s - at_s % DAY
        case "week":  # 1970 began with a Thursday
            return at_s - (at_s - 4 * DAY) % (7 * DAY)
        case "month":
            moment = time.gmtime(at_s)
            return calendar.timegm((moment.tm_year, moment.tm_mon, 1, 0, 0, 0))
        case _:
            length = max(1, int(period) // SLOTS)
            return at_s - at_s % length


def counts_from(period: str, now_s: int) -> int:
    """The first slot that still counts."""
    if period in NAMED:
        return slot(period, now_s)
    return slot(period, now_s - int(period))


def next_s(period: str, now_s: int) -> int:
    """When something is free again by itself (Unix time); 0 where never."""
    match period:
        case "total":
            return 0
        case "day":
            return slot(period, now_s) + DAY
        case "week":
            return slot(period, now_s) + 7 * DAY
        case "month":
            return slot(period, slot(period, now_s) + 32 * DAY)
        case _:
            return slot(period, now_s) + max(1, int(period) // SLOTS)
