"""JSON Schemas in fewer words: keywords that no grammar can follow, in places where others say the same. Pure.

| keyword | becomes |
|---|---|
| `unevaluatedProperties`, `unevaluatedItems`, where nothing else looks at the value | `additionalProperties`, `items` |
| `propertyNames` of a pattern, a length, or names, without `properties` | `patternProperties`, `properties` |
| `$ref` to an `$anchor`, or by the schema's own `$id` | `$ref` to the place |
| `if` alone, `then` without it, `minContains` without `contains`, `uniqueItems` false and the like | nothing |
| counts such as `2.0` | `2` |

What a part says has been looked at may be more than it was: that is for the `unevaluated…` keywords around it, and a
schema in which one of these is left is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

MAX_DEPTH: Final = 64  # schemas within each other: what is deeper is refused anyway

ONE: Final = ("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains", "propertyNames")
LISTS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS: Final = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
# What looks at the same value as the schema that it is in, and so says what of it has been looked at.
_IN_PLACE: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref", "$dynamicRef", "$recursiveRef"}
)

# Values with which a keyword says nothing.
_VOID: Final[Mapping[str, tuple[Any, ...]]] = {
    "uniqueItems": (False,),
    "not": (False,),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
}

Schema = dict[str, Any]


def plain(schema: Any) -> Any:
    """The same schema, or one that the same values are valid against."""
    if not isinstance(schema, dict):
        return schema
    return _plain(schema, _places(schema), MAX_DEPTH)


def _plain(schema: Any, places: Mapping[str, str], depth: int) -> Any:
    if not isinstance(schema, dict) or not depth:
        return schema
    done = {key: _within(key, value, lambda part: _plain(part, places, depth - 1)) for key, value in schema.items()}
    for key in _COUNTS:
        if isinstance(value := done.get(key), float) and value.is_integer():
            done[key] = int(value)
    if isinstance(reference := done.get("$ref"), str):
        done["$ref"] = places.get(reference, reference)
    before: Schema = {}
    while before != done:  # what one rule takes away may have been in another's way
        before = dict(done)
        for rule in (_unevaluated, _nothing, _names):
            rule(done)
    return done


def _within(key: str, value: Any, each: Callable[[Any], Any]) -> Any:
    """A keyword's value with every schema in it made another."""
    if key in ONE or key in ("not", "if", "then", "else"):
        return each(value)
    if key in LISTS and isinstance(value, list):
        return [each(part) for part in value]
    if key in MAPS and isinstance(value, dict):
        return {name: each(part) for name, part in value.items()}
    return value


def _unevaluated(schema: Schema) -> None:
    looked_at = not _IN_PLACE.isdisjoint(schema)
    for late, early, others in (
        ("unevaluatedProperties", "additionalProperties", ()),
        ("unevaluatedItems", "items", ("contains",)),
    ):
        if late not in schema or isinstance(schema.get("items"), list):
            continue
        if early in schema or schema[late] in (True, {}):
            del schema[late]  # nothing is left for it
        elif not looked_at and not any(other in schema for other in others):
            schema[early] = schema.pop(late)


def _nothing(schema: Schema) -> None:
    """Take out what no value can fail."""
    late = "unevaluatedProperties" in schema or "unevaluatedItems" in schema
    if schema.get("minContains") == 0 and "maxContains" not in schema and "unevaluatedItems" not in schema:
        schema.pop("contains", None)
    if "contains" not in schema:
        schema.pop("minContains", None)
        schema.pop("maxContains", None)
    if "if" not in schema:
        schema.pop("then", None)
        schema.pop("else", None)
    elif "then" not in schema and "else" not in schema and not late:
        del schema["if"]
    for key, void in _VOID.items():
        if key in schema and any(type(schema[key]) is type(value) and schema[key] == value for value in void):
            del schema[key]


def _names(schema: Schema) -> None:
    """`propertyNames` by what the properties of these names may be."""
    names = schema.get("propertyNames")
    if names is None or schema.get("properties") or schema.get("patternProperties") or schema.get("required"):
        return
    others = schema.get("additionalProperties", True)
    match names:
        case False:
            found: Schema = {}
        case {"pattern": str(pattern), **rest} if rest.items() <= {"type": "string"}.items():
            found = {"patternProperties": {pattern: others}}
        case {"enum": [*listed], **rest} if rest.items() <= {"type": "string"}.items():
            found = {"properties": {name: others for name in listed if isinstance(name, str)}}
        case {"const": str(name), **rest} if rest.items() <= {"type": "string"}.items():
            found = {"properties": {name: others}}
        case dict() if names.keys() <= {"type", "minLength", "maxLength"} and names.get("type", "string") == "string":
            least, most = names.get("minLength", 0), names.get("maxLength", "")
            if not isinstance(least, int) or not isinstance(most, int | str):
                return
            found = {"patternProperties": {rf"^[\s\S]{{{least},{most}}}$": others}}
        case _:
            return
    del schema["propertyNames"]
    schema.update(found, additionalProperties=False)


def _places(schema: Schema) -> dict[str, str]:
    """References by other names than places, and the places. None where a part of the schema is a schema of its own."""
    whole = schema.get("$id")
    found: dict[str, str] = {}
    for where, part in _parts(schema, "#", MAX_DEPTH):
        if part is not schema and "$id" in part:
            return {}
        if isinstance(name := part.get("$anchor"), str):
            found[f"#{name}"] = where
        if isinstance(whole, str) and isinstance(reference := part.get("$ref"), str):
            before, mark, pointer = reference.partition("#")
            if before == whole and (not pointer or pointer.startswith("/")):
                found[reference] = f"#{pointer}" if mark else "#"
    return found


def _parts(schema: Any, where: str, depth: int) -> Iterator[tuple[str, Schema]]:
    if not isinstance(schema, dict) or not depth:
        return
    yield where, schema
    for key, value in schema.items():
        if key in ONE or key in ("not", "if", "then", "else"):
            yield from _parts(value, f"{where}/{key}", depth - 1)
        elif key in LISTS and isinstance(value, list):
            for index, part in enumerate(value):
                yield from _parts(part, f"{where}/{key}/{index}", depth - 1)
        elif key in MAPS and isinstance(value, dict):
            for name, part in value.items():
                yield from _parts(part, f"{where}/{key}/{name.replace('~', '~0').replace('/', '~1')}", depth - 1)
