"""JSON Schemas in fewer words: keywords that no grammar can follow, in places where others say the same. Pure.

| keyword | becomes |
|---|---|
| `$ref` to an anchor, an address, any place | `$ref` to a definition (`references.py`) |
| `unevaluatedProperties`, `unevaluatedItems`, where nothing else looks at the value | `additionalProperties`, `items` |
| ... where others do | `anyOf` of what they may have looked at (`unevaluated.py`) |
| `not`, `if`, `oneOf`, `dependent…` | `anyOf` of the cases (`logic.py`) |
| `propertyNames` of a pattern, a length, or names, without `properties` | `patternProperties`, `properties` |
| `if` alone, `then` without it, `minContains` without `contains`, `uniqueItems` false and the like | nothing |
| a list of `items`, `additionalItems`, `dependencies`, `exclusiveMinimum` true | what they are called now |
| counts such as `2.0` | `2` |

What a part says has been looked at may be more than it was: that is for the `unevaluated…` keywords around it, and a
schema in which one of these is left is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ingress.grammar.logic import Logic
from ingress.grammar.narrow import narrowed
from ingress.grammar.parts import MALFORMED, MAX_DEPTH, Room, Schema, Unsayable, within
from ingress.grammar.references import resolved
from ingress.grammar.unevaluated import without_unevaluated

_COUNTS: Final = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
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


def plain(schema: Any) -> Any:
    """The same schema, or one that the same values are valid against.

    Raises:
        Unsayable: it would be too large.
    """
    if not isinstance(schema, dict):
        return schema
    return _Whole(_each(resolved(schema), MAX_DEPTH)).said("#")


def followable(schema: Any) -> Any:
    """A schema with which a grammar can be made, if there is one: what it allows is valid against this one.

    Raises:
        Unsayable: it would be too large.
    """
    said = plain(schema)
    return narrowed(said, lambda reference: _at(said, reference))


def _each(schema: Any, depth: int) -> Any:
    """With every schema in it in the words of the latest draft."""
    if not isinstance(schema, dict) or not depth:
        return schema
    done = {key: within(key, value, lambda part: _each(part, depth - 1)) for key, value in schema.items()}
    for key in _COUNTS:
        if isinstance(value := done.get(key), float) and value.is_integer():
            done[key] = int(value)
    others = done.pop("additionalItems", True)
    if isinstance(done.get("items"), list) and "prefixItems" not in done:
        done["prefixItems"] = done["items"]
        done["items"] = others
    for late, early in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(done.get(late), bool) and done.pop(late) and early in done:
            done[late] = done.pop(early)
    if isinstance(depends := done.get("dependencies"), dict):
        del done["dependencies"]
        for name, what in depends.items():
            key = "dependentRequired" if isinstance(what, list) else "dependentSchemas"
            done[key] = {**done.get(key, {}), name: what if isinstance(what, list) else _each(what, depth - 1)}
    return done


class _Whole:
    """A schema whose parts are said in other words, one by one."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._said: dict[str, Any] = {}
        self._within: set[str] = set()
        self._logic = Logic(self.said)
        self._room = Room()

    def said(self, reference: str) -> Any:
        """What a reference leads to, in other words.

        Raises:
            KeyError: nothing, or to what is being said.
        """
        if reference in self._within:
            raise KeyError(reference)
        if reference not in self._said:
            self._within.add(reference)
            try:
                self._said[reference] = self._plain(self._at(reference), MAX_DEPTH)
            finally:
                self._within.discard(reference)
        return self._said[reference]

    def _at(self, reference: str) -> Any:
        return _at(self._schema, reference)

    def _plain(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or not depth:
            return schema
        self._room.take()
        done = dict(schema)
        _unevaluated(done)
        if "unevaluatedProperties" in done or "unevaluatedItems" in done:
            try:
                done = without_unevaluated(done, self._at)
            except (Unsayable, *MALFORMED):
                pass  # it is refused by its name
        done = {key: within(key, value, lambda part: self._plain(part, depth - 1)) for key, value in done.items()}
        before: Schema = {}
        while before != done:  # what one rule takes away may have been in another's way
            before = dict(done)
            for rule in (_unevaluated, _nothing, _names, self._logic.apply):
                rule(done)
        return done


def _at(schema: Any, reference: str) -> Any:
    """What a reference to a definition leads to.

    Raises:
        KeyError: nothing.
    """
    if reference == "#":
        return schema
    mark, _, rest = reference.partition("/")
    key, _, name = rest.partition("/")
    if mark != "#" or not isinstance(found := schema.get(key), dict):
        raise KeyError(reference)
    return found[name.replace("~1", "/").replace("~0", "~")]


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
    if (
        schema.get(
            "minContains",
            "maxContains",
        )
        == 0
        and "maxContains" not in schema
        and "unevaluatedItems" not in schema
    ):
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
