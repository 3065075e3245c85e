"""Where schemas are within a schema. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

MAX_DEPTH: Final = 64  # schemas within each other: what is deeper is refused

ONE: Final = (
    "items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains", "propertyNames", "not",
    "if", "then", "else", "additionalItems",
)  # fmt: skip
LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

Schema = dict[str, Any]
MALFORMED: Final = (TypeError, ValueError, AttributeError)  # what comes of keywords that hold what they cannot


class Unsayable(Exception):
    """There are no words for it, or too many."""


class Room:
    """For so many values, or steps, in all: what a schema costs who reads it is bounded.

    Args:
        left: how many.
    """

    def __init__(self, left: int = 20_000) -> None:
        self._left = left

    @property
    def left(self) -> int:
        """How many are left."""
        return self._left

    def take(self, some: int = 1) -> None:
        """Use some of it.

        Raises:
            Unsayable: there is not so much.
        """
        self._left -= some
        if self._left < 0:
            raise Unsayable


def within(key: str, value: Any, each: Callable[[Any], Any]) -> Any:
    """A keyword's value with every schema in it made another."""
    if key == "items" and isinstance(value, list):
        return [each(part) for part in value]
    if key in ONE:
        return each(value)
    if key in LISTS and isinstance(value, list):
        return [each(part) for part in value]
    if key in MAPS and isinstance(value, dict):
        return {name: each(part) for name, part in value.items()}
    return value


def children(schema: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The schemas right within one, each with its JSON pointer."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in LISTS or (key == "items" and isinstance(value, list)):
            yield from ((f"{where}/{key}/{index}", part) for index, part in enumerate(value if _list(value) else ()))
        elif key in ONE:
            yield f"{where}/{key}", value
        elif key in MAPS and isinstance(value, dict):
            yield from ((f"{where}/{key}/{escaped(name)}", part) for name, part in value.items())


def escaped(name: str) -> str:
    """A key as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _list(value: Any) -> bool:
    return isinstance(value, list)
