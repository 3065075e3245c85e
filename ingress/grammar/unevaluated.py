"""`unevaluatedProperties` and `unevaluatedItems` beside keywords that look at the same value, by `anyOf` of what these
may have looked at. Pure.

What has been looked at depends on which parts of `anyOf`, `oneOf`, `if` and `dependentSchemas` the value is valid
against. So for every set of parts that may be: those, and everything that they do not name is as `unevaluated…` has it.
A value that is valid against more of them than a set has is held to more by that set, and to what it must by its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final, NamedTuple

from ingress.grammar.complement import Follow
from ingress.grammar.parts import Room, Schema, Unsayable

_MOST: Final = 64  # sets
_MOST_SCHEMAS: Final = 128


class _Seen(NamedTuple):
    """One way in which a value may be valid.

    Attributes:
        valid: what it is valid against then.
        names, patterns: the properties that have been looked at.
        every_property, every_item: all of them have.
        items: how many from the first have been looked at.
    """

    valid: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    every_property: bool = False
    items: int = 0
    every_item: bool = False

    def and_also(self, other: _Seen) -> _Seen:
        return _Seen(
            self.valid + other.valid,
            self.names + other.names,
            self.patterns + other.patterns,
            self.every_property or other.every_property,
            max(self.items, other.items),
            self.every_item or other.every_item,
        )


def without_unevaluated(schema: Schema, follow: Follow) -> Schema:
    """The same schema without the two keywords.

    Args:
        follow: what references lead to, as it was written; `KeyError` where nothing is.

    Raises:
        Unsayable: not by what there is.
    """
    rest = {key: value for key, value in schema.items() if key not in ("unevaluatedProperties", "unevaluatedItems")}
    properties, items = schema.get("unevaluatedProperties", True), schema.get("unevaluatedItems", True)
    ways = _ways(rest, follow, Room(_MOST_SCHEMAS), "unevaluatedItems" in schema)
    cases: list[Any] = []
    for way in ways:
        rule: Schema = {}
        if not way.every_property and properties is not True:
            rule["properties"] = dict.fromkeys(way.names, True)
            rule["patternProperties"] = dict.fromkeys(way.patterns, True)
            rule["additionalProperties"] = properties
        if not way.every_item and items is not True:
            rule |= {"prefixItems": [True] * way.items, "items": items} if way.items else {"items": items}
        cases.append({"allOf": [*way.valid, {key: value for key, value in rule.items() if value != {}}]})
    return {**rest, "allOf": [*rest.get("allOf", ()), {"anyOf": cases}]}


def _ways(schema: Any, follow: Follow, room: Room, of_items: bool) -> list[_Seen]:
    """How a value may be valid against a schema.

    Args:
        room: for schemas that are looked at.
        of_items: what is looked at of items counts.
    """
    if not isinstance(schema, dict):
        return [_Seen()] if schema else []
    room.take()
    if "$dynamicRef" in schema or "$recursiveRef" in schema or (of_items and "contains" in schema):
        raise Unsayable
    found = [_own(schema)]
    for ways in _beside(schema, follow, room, of_items):
        found = [one.and_also(other) for one in found for other in ways]
        if len(found) > _MOST:
            raise Unsayable
    return found


def _own(schema: Schema) -> _Seen:
    """What a schema looks at itself."""
    return _Seen(
        names=tuple(schema.get("properties", ())),
        patterns=tuple(schema.get("patternProperties", ())),
        every_property="additionalProperties" in schema or "unevaluatedProperties" in schema,
        items=len(schema.get("prefixItems", ())),
        every_item="items" in schema or "unevaluatedItems" in schema,
    )


def _beside(schema: Schema, follow: Follow, room: Room, of_items: bool) -> Iterator[list[_Seen]]:
    """For each keyword that looks at the same value, in how many ways."""

    def ways(part: Any) -> list[_Seen]:
        return _ways(part, follow, room, of_items)

    def valid(*parts: Any) -> list[_Seen]:
        found = [_Seen(parts)]
        for part in parts:
            found = [one.and_also(other) for one in found for other in ways(part)]
        return found

    if "$ref" in schema:
        try:
            yield ways(follow(schema["$ref"]))
        except KeyError:
            raise Unsayable from None
    for part in schema.get("allOf", ()):
        yield ways(part)
    if "oneOf" in schema:
        yield [way for part in schema["oneOf"] for way in valid(part)]
    if "anyOf" in schema:
        parts = schema["anyOf"]
        if len(parts) > 6:
            raise Unsayable
        yield [way for size in range(1, len(parts) + 1) for some in combinations(parts, size) for way in valid(*some)]
    if "if" in schema:
        when = schema["if"]
        otherwise = [_Seen(({"not": when},)).and_also(way) for way in valid(schema.get("else", True))]
        yield [*valid(when, schema.get("then", True)), *otherwise]
    for name, part in schema.get("dependentSchemas", {}).items():
        there = _Seen(({"type": "object", "required": [name]},))
        yield [_Seen(), *(there.and_also(way) for way in valid(part))]
