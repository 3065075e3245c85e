"""What a call says of caching: the header `Cache-Control`, and `cache` in its body. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ingress.api.schema_common import Generation

_MAX_AGE: Final = re.compile(r"max-age=\"?(\d{1,9})\"?")


class Directives(NamedTuple):
    """What a caller allows.

    Attributes:
        look_up: answer from the cache; without it the call is generated anew, and what was kept is replaced.
        store: keep the answer. A call that may not be stored is not looked up either, and shares no generation: nothing
            of it is left anywhere.
        max_age_s: oldest answer that will do; None is any that is kept.
    """

    look_up: bool = True
    store: bool = True
    max_age_s: float | None = None


def directives(cache_control: str, request: Generation) -> Directives:
    """Of a call. Header and body add up; what `Cache-Control` says beyond this (`no-transform`, what belongs to
    answers) is none of this cache's business, as RFC 9111 asks."""
    wanted = [part.strip().lower() for part in cache_control.split(",")] if cache_control else []
    options = getattr(request, "cache", None)  # only where OpenAI's older bodies are extended
    no_store = "no-store" in wanted or (options is not None and bool(options.no_store))
    no_cache = "no-cache" in wanted or (options is not None and bool(options.no_cache))
    ages = [float(match[1]) for part in wanted if (match := _MAX_AGE.fullmatch(part))]
    if options is not None and options.max_age is not None:
        ages.append(options.max_age)
    return Directives(not (no_store or no_cache), not no_store, min(ages, default=None))
