"""What can be followed only by allowing less than a schema does: every value that is left is valid against it. Pure.

| keyword | becomes |
|---|---|
| `contains`, with its numbers | items of which the ones that it asks for are among the first 16, next to one another |
| `format` of dates, pointers, references, templates, of what stands for more than ASCII | expressions (`formats.py`) |
| `properties` beside `allOf` and the like | the first part of `allOf`: they are written first |

It is done at the very end: of a schema that allows less, what it is *not* is more.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from ingress.grammar.complement import Follow, complement, either
from ingress.grammar.formats import WRITTEN
from ingress.grammar.parts import MALFORMED, MAX_DEPTH, Room, Schema, Unsayable, within

PLACES: Final = 16
_PARTS: Final = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_DEFINITIONS: Final = ("$defs", "definitions")
_TEXT: Final[Schema] = {"type": "string"}
_NO_TEXT: Final = ["null", "boolean", "number", "array", "object"]
_NO_ARRAY: Final = ["null", "boolean", "number", "string", "object"]


def narrowed(schema: Any, follow: Follow) -> Any:
    """A schema that allows some of what this one does, without what cannot be followed otherwise."""
    return _narrowed(schema, follow, Room(), MAX_DEPTH)


def _narrowed(schema: Any, follow: Follow, room: Room, depth: int) -> Any:
    if not isinstance(schema, dict) or not depth:
        return schema
    done = {
        key: within(key, value, lambda part: _narrowed(part, follow, room, depth - 1)) for key, value in schema.items()
    }
    if isinstance(form := done.get("format"), str) and form in WRITTEN:
        del done["format"]
        _also(done, [{"type": _NO_TEXT}, *(_TEXT | way for way in WRITTEN[form])])
    if "contains" in done:
        with contextlib.suppress(Unsayable, *MALFORMED):
            ways = _contains(done, _other(schema["contains"], follow, room))
            done = {key: value for key, value in done.items() if key not in ("contains", "minContains", "maxContains")}
            _also(done, [{"type": _NO_ARRAY}, *ways])
    return _in_order(done)


def _also(schema: Schema, ways: list[Any]) -> None:
    schema["allOf"] = [*schema.get("allOf", ()), either(ways)]


def _other(schema: Any, follow: Follow, room: Room) -> Any:
    """What does not count; None where there are no words for it."""
    try:
        return complement(schema, follow, room)
    except Unsayable:
        return None


def _contains(schema: Schema, other: Any) -> list[Any]:
    """By the places at which the items are that count, in order; `other` is what does not."""
    wanted, least, most = schema["contains"], schema.get("minContains", 1), schema.get("maxContains")
    if not isinstance(least, int) or not isinstance(most, int | None) or least > PLACES:
        raise Unsayable
    if most is None:
        before = True if other is None else other
        return [_items([before] * at + [wanted] * least, True) for at in range(PLACES - least + 1 if least else 1)]
    if other is None:
        raise Unsayable
    # So many that count, behind some that do not, and none after them.
    return [
        _items([other] * at + [wanted] * number, other)
        for number in range(least, min(most, PLACES) + 1)
        for at in range(PLACES - number + 1 if number else 1)
    ]


def _items(first: list[Any], then: Any) -> Any:
    if any(part is False for part in first):
        return False
    found: Schema = {"type": "array", "minItems": len(first)}
    if first:
        found["prefixItems"] = first
    return found if then is True else {**found, "items": then}


def _in_order(schema: Schema) -> Schema:
    """With a schema's own properties before those of its parts, as they are written: it is the order of an answer's."""
    if "properties" not in schema or _PARTS.isdisjoint(schema):
        return schema
    own = {key: value for key, value in schema.items() if key not in _PARTS and key not in _DEFINITIONS}
    rest = [{key: schema[key]} for key in ("anyOf", "oneOf", "$ref") if key in schema]
    whole: Schema = {key: schema[key] for key in _DEFINITIONS if key in schema}
    return {**whole, "allOf": [own, *schema.get("allOf", ()), *rest]}
