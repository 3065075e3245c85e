"""What operators write of amounts, spans and scopes, and back. Pure."""

from __future__ import annotations

import re
import time
from decimal import Decimal, InvalidOperation
from typing import Final, get_args

from bus.messages.accounts import Allowance, Dimension, ScopeKind
from bus.prices import NANO

LIMITS: Final = tuple(name for name in get_args(Dimension) if name != "money")
PERIODS: Final = ("day", "week", "month", "total")
_SPAN: Final = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_COUNT: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_KEY: Final = re.compile(r"k[0-9a-f]{11}")


class BadAmount(ValueError):
    """Not what was expected; the message says what is."""


def span_s(text: str) -> int:
    """`90m` in seconds.

    Raises:
        BadAmount: not a length of time.
    """
    if (match := _SPAN.fullmatch(text.strip())) is None:
        raise BadAmount(f"{text!r} is not a length of time; write for example 30s, 90m, 24h, 90d or 4w")
    return int(match[1]) * _SECONDS[match[2]]


def count(text: str) -> int:
    """`200k` as a number; `none` as -1, which takes a limit away.

    Raises:
        BadAmount: not a number.
    """
    if text == "none":
        return -1
    match = re.fullmatch(r"(\d[\d_]{0,17})([kMG]?)", text)
    if match is None or not (number := int(match[1].replace("_", "")) * _COUNT[match[2]]):
        raise BadAmount(f"{text!r} is not a number of at least 1; write for example 60, 200k, 2M or none")
    return number


def money(text: str) -> int:
    """`12.50` in billionths; `none` as -1.

    Raises:
        BadAmount: not an amount.
    """
    if text == "none":
        return -1
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not (value.is_finite() and 0 < value < 1_000_000_000 and int(value * NANO)):
        raise BadAmount(f"{text!r} is not an amount of money; write for example 25, 0.50 or none")
    return int(value * NANO)


def limit(word: str, window_s: int) -> tuple[Dimension, int, int]:
    """`requests=60` as dimension, amount and window.

    Raises:
        BadAmount: see there.
    """
    name, equals, text = word.partition("=")
    name = name.replace("-", "_")
    if not equals or name not in LIMITS:
        raise BadAmount(f"{word!r}: write NAME=NUMBER, with NAME one of {', '.join(LIMITS)}")
    return name, count(text), 0 if name == "concurrency" else window_s  # type: ignore[return-value]


def period(text: str) -> str:
    """`month`, or `30d` that roll, as messages have it.

    Raises:
        BadAmount: not a period.
    """
    if text in PERIODS:
        return text
    try:
        return str(span_s(text))
    except BadAmount:
        raise BadAmount(
            f"{text!r} is not a period; write {', '.join(PERIODS)}, or for example 30d for the last 30 days"
        ) from None


def kind_of(scope: str) -> ScopeKind:
    """What a name is of."""
    return "key" if _KEY.fullmatch(scope) else "project" if "/" in scope else "organisation"


def key_id(text: str) -> str:
    """The id of a key, given as an id or as (the beginning of) the key itself.

    Raises:
        BadAmount: it is none.
    """
    id = text.removeprefix("sk-").partition("-")[0]
    if not _KEY.fullmatch(id):
        raise BadAmount(f"{text!r} is no key id: k and eleven hexadecimal digits, as headrace keys list shows them")
    return id


def in_words(allowance: Allowance, currency: str) -> str:
    """`60 requests / 60 s`."""
    model = f" of {allowance.model}" if allowance.model else ""
    if allowance.dimension == "money":
        return f"{amount(allowance, allowance.amount)} {currency} / {_period(allowance.period)}{model}"
    window = f" / {allowance.window_s} s" if allowance.window_s else ""
    name = "answers at once" if allowance.dimension == "concurrency" else allowance.dimension.replace("_", " ")
    return f"{allowance.amount:,} {name}{window}{model}"


def amount(allowance: Allowance, value: int) -> str:
    """In the unit of an allowance."""
    if allowance.dimension != "money":
        return f"{value:,}"
    return f"{value / NANO:,.2f}" if abs(value) >= NANO // 10 or not value else f"{value / NANO:.9f}".rstrip("0")


def day(at_s: int) -> str:
    """A moment, for people (UTC); empty for never."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_s)) if at_s else ""


def _period(text: str) -> str:
    return (
        f"{int(text) // 86400} d"
        if text.isdigit() and not int(text) % 86400
        else f"{text} s"
        if text.isdigit()
        else text
    )
