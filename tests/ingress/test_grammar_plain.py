"""Schemas in fewer words: valid is what was, whatever of the keywords there is and beside what."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.errors import ApiError
from ingress.grammar.plain import followable, plain
from ingress.grammar.schema import check

NAMES = ["a", "b", "ab", "ba", "c1"]
values = st.recursive(
    st.one_of(st.integers(0, 3), st.sampled_from(NAMES), st.booleans(), st.none()),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(st.sampled_from(NAMES), parts, max_size=3)),
    max_leaves=5,
)
leaves = st.sampled_from(
    [True, False, {}, {"type": "integer"}, {"type": "string"}, {"const": 1}, {"type": "object"}, {"const": "ab"},
     {"enum": ["a", "b", 2, None]}, {"minimum": 2}, {"exclusiveMaximum": 2}, {"minLength": 2}, {"required": ["a"]},
     {"type": ["array", "null"]}, {"enum": [True, 0]}, {"$ref": "#/$defs/one"}, {"$ref": "#two"},
     {"$ref": "#/$defs/rec"},
     {"maxItems": 1}, {"minProperties": 1}, {"pattern": "a"}]
)  # fmt: skip
names = st.sampled_from(
    [True, False, {}, {"pattern": "^a"}, {"enum": ["a", "c1", 5]}, {"const": "ab"}, {"maxLength": 1}, {"minLength": 2},
     {"type": "string", "minLength": 1, "maxLength": 2}, {"type": "string", "pattern": "1$"}, {"not": {"const": "a"}}]
)  # fmt: skip


def keywords(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from(NAMES), parts, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "1"]), parts, max_size=1),
            "additionalProperties": parts,
            "unevaluatedProperties": parts,
            "propertyNames": names,
            "required": st.lists(st.sampled_from(NAMES), max_size=1),
            "items": parts,
            "prefixItems": st.lists(parts, min_size=1, max_size=2),
            "unevaluatedItems": parts,
            "contains": parts,
            "minContains": st.sampled_from([0, 1, 2, 0.0]),
            "maxContains": st.sampled_from([1, 2]),
            "uniqueItems": st.booleans(),
            "minItems": st.sampled_from([1, 1.0]),
            "maxLength": st.sampled_from([1, 2.0]),
            "anyOf": st.lists(parts, min_size=1, max_size=2),
            "allOf": st.lists(parts, min_size=1, max_size=2),
            "oneOf": st.lists(parts, min_size=1, max_size=3),
            "not": parts,
            "if": parts,
            "then": parts,
            "else": parts,
            "dependentRequired": st.sampled_from([{}, {"a": ["b"]}, {"a": ["a"], "b": ["c1", "ab"]}]),
            "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), parts, max_size=1),
        },
    )


DEFINED = {
    "one": {"type": "object", "properties": {"a": {"const": 1}, "b": {}}},
    "second": {"$anchor": "two", "oneOf": [{"type": "string"}, {"minItems": 1}, {"type": "array"}]},
    "rec": {"anyOf": [{"type": "integer"}, {"items": {"$ref": "#/$defs/rec"}, "type": "array"}]},
}


@settings(max_examples=150, deadline=None)
@given(st.recursive(leaves, keywords, max_leaves=8), st.lists(values, min_size=1, max_size=8))
def test_the_same_values_are_valid(schema: Any, instances: list[Any]) -> None:
    """And what can be followed allows nothing else, whatever else it leaves out."""
    schema = {**schema, "$defs": DEFINED} if isinstance(schema, dict) else schema
    same, followed = plain(schema), followable(schema)
    try:
        check(schema, "s")
    except ApiError:
        return  # it is not followed
    before, after, less = (jsonschema.Draft202012Validator(each) for each in (schema, same, followed))
    for instance in instances:
        valid = before.is_valid(instance)
        assert valid == after.is_valid(instance), (schema, same, instance)
        assert valid or not less.is_valid(instance), (schema, followed, instance)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"unevaluatedProperties": False}, {"additionalProperties": False}),
        ({"unevaluatedProperties": False, "additionalProperties": {}}, {"additionalProperties": {}}),
        ({"prefixItems": [{}], "unevaluatedItems": False}, {"prefixItems": [{}], "items": False}),
        ({"propertyNames": {"enum": ["x"]}}, {"properties": {"x": True}, "additionalProperties": False}),
        ({"if": {"const": 1}}, {}),
        ({"then": {"const": 1}, "uniqueItems": False}, {}),
        (
            {"$ref": "#leaf", "$defs": {"a/b": {"$anchor": "leaf", "type": "null"}}},
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}},
        ),
        (
            {"$id": "http://x/y", "items": {"$ref": "http://x/y#/$defs/z"}, "$defs": {"z": {}}},
            {"items": {"$ref": "#/$defs/z"}, "$defs": {"z": {}}},
        ),
        (
            {"$ref": "#/properties/p", "properties": {"p": {"type": "null"}}},
            {
                "$ref": "#/$defs/at_47_properties_47_p",
                "properties": {"p": {"type": "null"}},
                "$defs": {"at_47_properties_47_p": {"type": "null"}},
            },
        ),
        ({"not": {"required": ["a"]}}, {"allOf": [{"type": "object", "properties": {"a": False}}]}),
        ({"items": [{"const": 1}], "additionalItems": False}, {"prefixItems": [{"const": 1}], "items": False}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
    ],
)
def test_what_becomes_of_keywords(schema: Any, expected: Any) -> None:
    assert plain(schema) == expected
    check(schema, "s")


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"unevaluatedItems": False, "contains": {}}, "s.unevaluatedItems"),
        ({"propertyNames": {"pattern": "a"}, "properties": {"b": {}}}, "s.propertyNames"),
        ({"not": {"pattern": "a"}}, "s.not"),
        ({"if": {"multipleOf": 3}, "then": {"minimum": 2}}, "s.if"),
        ({"contains": {"pattern": "a"}, "maxContains": 2}, "s.contains"),
        ({"dependentSchemas": {"a": {"uniqueItems": True}}}, "s.dependentSchemas.a.uniqueItems"),
        ({"$ref": "#nowhere"}, "s.$ref"),
        ({"properties": {"p": {"$id": "q", "$anchor": "r"}}, "$ref": "#r"}, "s.$ref"),
    ],
)
def test_what_cannot_be_said_otherwise_is_refused_where_it_stands(schema: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(schema, "s")
    assert refused.value.param == param
