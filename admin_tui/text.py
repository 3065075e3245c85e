"""Text for the screen: cleaning what came from outside, and numbers as people read them. Pure."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_TEXT: Final = 400
NOTHING: Final = "-"


def sanitize(text: str, limit: int = MAX_TEXT) -> str:
    """Text that cannot speak to the terminal: one line, no control, format or unassigned characters.

    An ESC or C1 byte in a log line or a model name reaches the terminal through any widget and can set its title or
    worse; bidirectional controls make a line read as another one. Whitespace becomes blanks, the rest is dropped.
    """
    kept = []
    for character in text[: 4 * limit]:
        if character.isspace():
            kept.append(" ")
        elif unicodedata.category(character)[0] != "C":
            kept.append(character)
    cleaned = "".join(kept)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def count(number: float) -> str:
    """`12340` as `12,340`."""
    return f"{round(number):,}"


def short(number: float) -> str:
    """At most four characters and a unit: `8.1M`, `412`, `3.4k`."""
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G")):
        if abs(number) < limit:
            value = number / divisor
            return f"{value:.1f}{unit}" if divisor > 1 and abs(value) < 99.95 else f"{value:.0f}{unit}"
    return f"{number / 1e12:.1f}T"


def rate(per_s: float) -> str:
    """A rate with as many digits as it deserves: `0`, `0.2`, `41`, `12,340`."""
    if per_s == 0:
        return "0"
    return f"{per_s:.1f}" if per_s < 9.95 else count(per_s)


def size(octets: float) -> str:
    """Bytes in binary units: `412M`, `8.8G`."""
    for limit, unit in ((2**20, "K"), (2**30, "M"), (2**40, "G")):
        if octets < limit:
            value = octets / (limit / 1024)
            return f"{value:.1f}{unit}" if value < 9.95 and unit == "G" else f"{value:.0f}{unit}"
    return f"{octets / 2**40:.1f}T"


def percent(ratio: float) -> str:
    """`0.71` as `71 %`; a negative ratio has no meaning."""
    return NOTHING if ratio < 0 else f"{100 * ratio:.0f} %"


def duration(seconds: float) -> str:
    """Three digits and a unit: `340 us`, `12 ms`, `2.1 s`, `4m05s`, `2h03m`, `9d11h`. Zero or less is nothing."""
    if seconds <= 0:
        return NOTHING
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for limit, high, high_unit, low, low_unit in (
        (3600, 60, "m", 1, "s"),
        (86400, 3600, "h", 60, "m"),
    ):
        if whole < limit:
            return f"{whole // high}{high_unit}{whole % high // low:02d}{low_unit}"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def request_id(request: int) -> str:
    """The end of a request's id in hex: enough to tell it from its neighbours."""
    return f"{request:08x}"[-8:]
