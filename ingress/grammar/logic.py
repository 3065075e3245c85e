"""Keywords that say when other keywords count, by what can be followed: `anyOf` of the cases. Pure.

| keyword | becomes |
|---|---|
| `not` | what the schema in it is not (`complement.py`) |
| `if`, `then`, `else` | either both, or not the first and the last |
| `oneOf` of schemas that may allow the same | one of them, and none of the others |
| `dependentRequired`, `dependentSchemas`, `dependencies` | either the name is missing, or what depends on it is there |

What cannot be said so stays as it is, and the schema is refused by its name.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

from ingress.grammar.complement import Follow, complement, either, every
from ingress.grammar.parts import MALFORMED, Room, Schema, Unsayable

_MOST_PARTS: Final = 64  # of `oneOf`: every two are compared


class Logic:
    """Rules for the schemas of one schema.

    Args:
        follow: what references lead to.
    """

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._room = Room()

    def apply(self, schema: Schema) -> None:
        """Put other words in place of those that cannot be followed, where there are any. What is within is said so
        already."""
        for rule in (self._not, self._if, self._one_of, self._dependent):
            before = dict(schema)
            try:
                rule(schema)
                if schema != before:
                    self._room.take(_size(schema, self._room.left))
            except (Unsayable, *MALFORMED):
                schema.clear()
                schema.update(before)

    def _not(self, schema: Schema) -> None:
        if "not" in schema:
            _also(schema, self._other(schema.pop("not")))

    def _if(self, schema: Schema) -> None:
        if "if" not in schema:
            return
        when, then, otherwise = schema.pop("if"), schema.pop("then", True), schema.pop("else", True)
        _also(schema, either([every([when, then]), every([self._other(when), otherwise])]))

    def _one_of(self, schema: Schema) -> None:
        parts = schema.get("oneOf")
        if not isinstance(parts, list) or len(parts) > _MOST_PARTS:
            return
        if all(_apart(one, other) for one, other in combinations(parts, 2)):
            _also(schema, either(schema.pop("oneOf")))
            return
        others = [self._other(part) for part in parts]
        del schema["oneOf"]
        _also(schema, either([every([part, *others[:at], *others[at + 1 :]]) for at, part in enumerate(parts)]))

    def _dependent(self, schema: Schema) -> None:
        for name, names in schema.pop("dependentRequired", {}).items():
            _also(schema, either([_without(name), _with(name, names, True)]))
        for name, part in schema.pop("dependentSchemas", {}).items():
            _also(schema, either([_without(name), _with(name, [], part)]))

    def _other(self, schema: Any) -> Any:
        return complement(schema, self._follow, self._room)


def _without(name: str) -> Schema:
    return {"properties": {name: False}}


def _with(name: str, names: list[str], part: Any) -> Any:
    if part is False:
        return False
    found: Schema = {"type": "object", "required": [*(other for other in names if other != name), name]}
    return found if part is True or part == {} else {**found, "allOf": [part]}


def _also(schema: Schema, part: Any) -> None:
    """Have a schema ask for a part as well."""
    if part is not True and part != {}:
        schema["allOf"] = [*schema.get("allOf", ()), part]


def _apart(one: Any, other: Any) -> bool:
    """Whether nothing is valid against both, as far as can be seen at once: by their types, or a property of both."""
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if (first := _kinds(one)) is not None and (second := _kinds(other)) is not None and first.isdisjoint(second):
        return True
    if (first := _texts(one)) is not None and (second := _texts(other)) is not None and first.isdisjoint(second):
        return True
    if not _kinds(one) == _kinds(other) == {"object"}:
        return False
    names = set(_list(one.get("required"))) & set(_list(other.get("required")))
    ours, theirs = _map(one.get("properties")), _map(other.get("properties"))
    return any(_apart(ours[name], theirs[name]) for name in names if name in ours and name in theirs)


def _kinds(schema: Schema) -> set[str] | None:
    """The types of what is valid; None where it can be any."""
    kinds = schema.get("type")
    found = set(kinds) if isinstance(kinds, list) else {kinds} if isinstance(kinds, str) else None
    return {"number" if kind == "integer" else kind for kind in found} if found is not None else None


def _texts(schema: Schema) -> set[str] | None:
    """The texts that are valid, where nothing else is."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return None
    return set(values)


def _map(value: Any) -> Schema:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _size(value: Any, room: int) -> int:
    """How many values there are in one.

    Raises:
        Unsayable: more than there is room for.
    """
    found, level = 0, [value]
    while level:
        found += len(level)
        if found > room:
            raise Unsayable
        level = [part for each in level if isinstance(each, dict | list)
                 for part in (each.values() if isinstance(each, dict) else each)]  # fmt: skip
    return found
