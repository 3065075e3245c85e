"""What all sections of the configuration are made of: their base, kinds of values, and what is wrong where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

Where = tuple[str | int, ...]  # ("model", 0, "name")
Problem = tuple[Where, str]


class ConfigError(ValueError):
    """The configuration cannot be used. The message names file, line and key, and what is expected."""


class Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of all sections: unknown keys are errors."""


def parse_size(text: str) -> int:
    """`"4GiB"` in bytes. Binary units (KiB, MiB, GiB, TiB) and decimal ones (KB, MB, GB, TB); a bare number is bytes.

    Raises:
        ConfigError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?\s*", text)
    if match is None:
        raise ConfigError(f"{text!r} is not a size; write for example 4GiB or 512MiB")
    unit = match[2] or "B"
    power = " KMGT".index(unit[0]) if unit[0] in "KMGT" else 0
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** power)


def parse_address(text: str) -> tuple[str, int]:
    """`"127.0.0.1:8080"` or `"[::1]:8080"` as host and port.

    Raises:
        ConfigError: not an address.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is not an address; write HOST:PORT, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def unless(parse: Callable[[str], object], text: str, where: Where) -> Iterator[Problem]:
    """What `parse` says of a value that it does not take."""
    try:
        parse(text)
    except ConfigError as error:
        yield where, str(error)
