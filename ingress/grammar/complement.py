"""What a schema is not, as a schema without `not`. Pure.

A schema is all of its keywords at once, so what it is not is anything that one of them is not: of `minimum` what is
less, of `required` an object without one of the names, of `allOf` what one part is not. Some of it no schema can say
without `not` (that a text does not match an expression): then nothing is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

from ingress.grammar.parts import MAX_DEPTH, Room, Schema, Unsayable

_TYPES: Final = ("null", "boolean", "number", "string", "array", "object")
_MOST_TEXT: Final = 128  # characters, and texts: an expression of every other one is as long as the square of it

Follow = Callable[[str], Any]
"""What a reference leads to, with no `not` in it either; `KeyError` where nothing is."""


def complement(schema: Any, follow: Follow, room: Room) -> Any:
    """A schema of all values that are not valid against this one.

    Args:
        schema: one in which `not`, `if` and what depends on names is said by other keywords.
        room: for the schemas that are looked at.

    Raises:
        Unsayable: there is none, or it would be too large.
    """
    return _Complement(follow, room).of(schema, MAX_DEPTH)


def either(parts: list[Any]) -> Any:
    """A schema of what one of these, at least, allows."""
    kept = [part for part in parts if part is not False]
    if any(part is True or part == {} for part in kept):
        return True
    return (kept[0] if len(kept) == 1 else {"anyOf": kept}) if kept else False


def every(parts: list[Any]) -> Any:
    """A schema of what all of these allow."""
    kept = [part for part in parts if part is not True and part != {}]
    if any(part is False for part in kept):
        return False
    return (kept[0] if len(kept) == 1 else {"allOf": kept}) if kept else True


class _Complement:
    def __init__(self, follow: Follow, room: Room) -> None:
        self._follow, self._room = follow, room
        self._within: list[str] = []  # references that are being followed

    def of(self, schema: Any, depth: int) -> Any:
        self._room.take()
        if not depth:
            raise Unsayable
        if not isinstance(schema, dict):
            return not schema
        found = []
        for key, value in schema.items():
            if key in _EASY:
                found.append(_EASY[key](value))
            elif key in _HARD:
                raise Unsayable
            else:
                found.append(self._one(key, value, schema, depth - 1))
        return either(found)

    def _one(self, key: str, value: Any, schema: Schema, depth: int) -> Any:
        match key:
            case "$ref":
                return self._reference(value, depth)
            case "allOf":
                return either([self.of(part, depth) for part in value])
            case "anyOf":
                return every([self.of(part, depth) for part in value])
            case "properties":
                named = {name: self.of(part, depth) for name, part in value.items()}
                return either([{"type": "object", "required": [name], "properties": {name: part}}
                               for name, part in named.items() if part is not False])  # fmt: skip
            case "prefixItems":
                places = [self.of(part, depth) for part in value]
                return either([{"type": "array", "minItems": at + 1, "prefixItems": [*[True] * at, part]}
                               for at, part in enumerate(places) if part is not False])  # fmt: skip
            case "items":
                return self._items(self.of(value, depth), len(schema.get("prefixItems", ())))
            case "contains":
                return _contained(value, self.of(value, depth), schema)
            case "additionalProperties":
                if value is not True and value != {}:
                    raise Unsayable
        return False  # an annotation, or of `contains` or `properties`

    def _reference(self, reference: str, depth: int) -> Any:
        if reference in self._within:
            raise Unsayable  # it would have no end
        try:
            found = self._follow(reference)
        except KeyError:
            raise Unsayable from None
        self._within.append(reference)
        done = self.of(found, depth)
        self._within.pop()
        return done

    @staticmethod
    def _items(other: Any, after: int) -> Any:
        if other is False:
            return False
        if other is True:
            return {"type": "array", "minItems": after + 1}
        if after:
            raise Unsayable
        return {"type": "array", "contains": other}


def _contained(value: Any, other: Any, schema: Schema) -> Any:
    """Of `contains`, and its numbers: too few are, or too many."""
    least, most = schema.get("minContains", 1), schema.get("maxContains")
    few: Any = False
    if least == 1:
        few = {"type": "array", "items": other}
    elif least > 1:
        few = {"type": "array", "contains": value, "minContains": 0, "maxContains": least - 1}
    many = False if most is None else {"type": "array", "contains": value, "minContains": most + 1}
    return either([few, many])


def _type(value: Any) -> Any:
    kinds = value if isinstance(value, list) else [value]
    if "integer" in kinds and "number" not in kinds:
        raise Unsayable  # of what has a fraction
    others = [kind for kind in _TYPES if kind not in kinds]
    return {"type": others} if others else False


def _enum(values: Any) -> Any:
    if any(isinstance(value, list | dict) for value in values):
        raise Unsayable
    numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) > _MOST_TEXT or any(len(text) > _MOST_TEXT for text in texts):
        raise Unsayable
    parts: list[Any] = [{"type": ["array", "object"]}]
    if None not in values:
        parts.append({"type": "null"})
    parts += [{"const": flag} for flag in (False, True) if not any(value is flag for value in values)]
    edges = [-math.inf, *numbers, math.inf]
    for low, high in pairwise(edges):
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
        parts.append({"type": "number", **{key: edge for key, edge in bounds.items() if math.isfinite(edge)}})
    parts.append({"type": "string", "allOf": [{"pattern": _other_than(text)} for text in texts]} if texts
                 else {"type": "string"})  # fmt: skip
    return {"anyOf": parts}


def _other_than(text: str) -> str:
    """An expression of every text but one: it is shorter, longer, or has another character somewhere."""
    many = len(text)
    ways = [rf"[\s\S]{{{many + 1},}}"] + ([rf"[\s\S]{{0,{many - 1}}}"] if many else [])
    for at, character in enumerate(text):
        # An escape within brackets, as a bracket, a dash or a caret means something there.
        ways.append(rf"{re.escape(text[:at])}[^{re.escape(character)}][\s\S]{{{many - at - 1}}}")
    return f"^(?:{'|'.join(ways)})$"


def _least(key: str, value: int) -> Any:
    """Of a smallest number of what there is: fewer, if there can be."""
    kind = _KINDS[key[3:]]
    return {"type": kind, f"max{key[3:]}": value - 1} if value > 0 else False


_KINDS: Final = {"Length": "string", "Items": "array", "Properties": "object"}
_EASY: Final[Mapping[str, Callable[[Any], Any]]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value: _enum([value]),
    "minimum": lambda value: {"type": "number", "exclusiveMaximum": value},
    "maximum": lambda value: {"type": "number", "exclusiveMinimum": value},
    "exclusiveMinimum": lambda value: {"type": "number", "maximum": value},
    "exclusiveMaximum": lambda value: {"type": "number", "minimum": value},
    "minLength": lambda value: _least("minLength", value),
    "minItems": lambda value: _least("minItems", value),
    "minProperties": lambda value: _least("minProperties", value),
    "maxLength": lambda value: {"type": "string", "minLength": value + 1},
    "maxItems": lambda value: {"type": "array", "minItems": value + 1},
    "maxProperties": lambda value: {"type": "object", "minProperties": value + 1},
    "required": lambda names: either([{"type": "object", "properties": {name: False}} for name in names]),
}
# What is not said, and so not denied either. Everything else is an annotation.
_HARD: Final = frozenset(
    {"not", "if", "then", "else", "oneOf", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames",
     "patternProperties", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "multipleOf", "pattern", "format",
     "additionalItems", "$dynamicRef", "$recursiveRef"}
)  # fmt: skip
