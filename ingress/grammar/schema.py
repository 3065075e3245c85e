"""Which JSON Schemas can be followed while an answer is written, and what of one cannot, by its path. Pure.

A grammar that says less than its schema would let answers through that do not validate, so what cannot be said whole is
refused. Keys that no draft of JSON Schema knows are annotations, as the specification has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ingress.errors import ApiError, invalid_request, unsupported_parameter
from ingress.grammar.formats import WRITTEN
from ingress.grammar.parts import LISTS, MAPS, ONE, Unsayable
from ingress.grammar.plain import followable

MAX_DEPTH: Final = 64  # schemas within each other
MAX_VALUES: Final = 20_000  # in one: keys, items, numbers, strings

_NEEDS_WHOLE: Final = "what it asks for can only be told once the value is complete"
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "not": _NEEDS_WHOLE,
    "if": _NEEDS_WHOLE,
    "then": _NEEDS_WHOLE,
    "else": _NEEDS_WHOLE,
    "contains": _NEEDS_WHOLE,
    "minContains": _NEEDS_WHOLE,
    "maxContains": _NEEDS_WHOLE,
    "uniqueItems": _NEEDS_WHOLE,
    "propertyNames": "use patternProperties with additionalProperties false",
    "dependentRequired": _NEEDS_WHOLE,
    "dependentSchemas": _NEEDS_WHOLE,
    "dependencies": _NEEDS_WHOLE,
    "unevaluatedItems": "use items false after prefixItems",
    "unevaluatedProperties": "use additionalProperties",
    "additionalItems": "use prefixItems and items",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "x-guidance": "it belongs to the library that follows schemas",
}
# Those that the library knows. The others are for people to agree on what they mean.
_KNOWN: Final = frozenset({"duration", "uuid", "ipv4", "ipv6", "hostname", "email", "uri"})
FORMATS: Final = _KNOWN | WRITTEN.keys()


def check(schema: Any, param: str) -> None:
    """Refuse a schema that cannot be followed whole, by the path of what is in the way.

    Raises:
        ApiError: 400.
    """
    if not isinstance(schema, dict | bool):
        raise invalid_request(f"{param}: a JSON Schema is an object.", param=param, code="invalid_schema")
    _measure(schema, param)
    try:
        said = followable(schema)
    except (Unsayable, RecursionError):
        raise _too_complex(
            param, f"more than {MAX_VALUES} values once it is said without what depends on them"
        ) from None
    _measure(said, param)
    try:
        for where, one in _schemas(said, param):
            _check_one(where, one)
    except ApiError as refused:
        raise _where_it_stands(schema, param, refused) from None


def _where_it_stands(schema: Any, param: str, refused: ApiError) -> ApiError:
    """What is refused of a schema in other words, by its path in the one that was sent, where the word is there."""
    word = (refused.param or "").rpartition(".")[2]
    for where, one in _schemas(schema, param):
        try:
            _check_one(where, one)
        except ApiError as found:
            if (found.param or "").rpartition(".")[2] == word:
                return found
    return refused


def _measure(schema: Any, param: str) -> None:
    values = 0
    level = [schema]
    for _ in range(4 * MAX_DEPTH):  # containers within each other: a schema is several of them
        if not level:
            return
        values += len(level)
        if values > MAX_VALUES:
            raise _too_complex(param, f"more than {MAX_VALUES} values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise invalid_request(f"{param}: {value} is no number of JSON.", param=param, code="invalid_schema")
        level = below
    raise _too_complex(param, f"values within each other more than {4 * MAX_DEPTH} deep")


def _schemas(schema: Any, param: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in it, with its path."""
    level = [(param, schema)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for where, one in level:
            if not isinstance(one, dict):
                continue
            yield where, one
            for key in ONE:
                below += [(f"{where}.{key}", one[key])] if key in one else []
            for key in LISTS:
                if isinstance(parts := one.get(key), list):
                    below += [(f"{where}.{key}[{index}]", part) for index, part in enumerate(parts)]
            for key in MAPS:
                if isinstance(named := one.get(key), dict):
                    below += [(f"{where}.{key}.{name}", part) for name, part in named.items()]
        if not below:
            return
        level = below
    raise _too_complex(param, f"schemas within each other more than {MAX_DEPTH} deep")


def _check_one(where: str, schema: Mapping[str, Any]) -> None:
    for key, why in _UNSUPPORTED.items():
        if key in schema:
            raise _refused(f"{where}.{key}", why)
    if isinstance(schema.get("items"), list):
        raise _refused(f"{where}.items", "a list of schemas is prefixItems now")
    if (reference := schema.get("$ref")) is not None and not (
        isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))
    ):
        raise _refused(f"{where}.$ref", "only references within the schema, #/$defs/NAME, can be followed")
    if (form := schema.get("format")) is not None and form not in _KNOWN and _may_be_text(schema):
        raise _refused(f"{where}.format", f"of formats, {', '.join(sorted(FORMATS))} can be followed; see pattern")
    if isinstance(schema.get("pattern"), str):
        _check_pattern(schema["pattern"], f"{where}.pattern")
    for pattern in schema["patternProperties"] if isinstance(schema.get("patternProperties"), dict) else ():
        _check_pattern(pattern, f"{where}.patternProperties")


def _may_be_text(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", "string")
    return "string" in (kinds if isinstance(kinds, list) else [kinds])


def _check_pattern(pattern: str, where: str) -> None:
    if re.search(r"\(\?[=!<]|\\[1-9bB]", pattern):
        raise _refused(where, "a pattern cannot look around, refer back, or ask for the borders of words")


def _refused(where: str, why: str) -> ApiError:
    return unsupported_parameter(where[:256], f"{where[:256]}: cannot be followed while an answer is written: {why}.")


def _too_complex(param: str, what: str) -> ApiError:
    return invalid_request(f"{param}: {what}.", param=param, code="schema_too_complex")
