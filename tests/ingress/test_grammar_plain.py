"""Schemas in fewer words: valid is what was, whatever of the keywords there is and beside what."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.errors import ApiError
from ingress.grammar.plain import plain
from ingress.grammar.schema import check

NAMES = ["a", "b", "ab", "ba", "c1"]
values = st.recursive(
    st.one_of(st.integers(0, 3), st.sampled_from(NAMES), st.booleans(), st.none()),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(st.sampled_from(NAMES), parts, max_size=3)),
    max_leaves=5,
)
leaves = st.sampled_from([True, False, {}, {"type": "integer"}, {"type": "string"}, {"const": 1}, {"type": "object"}])
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
            "not": parts,
            "if": parts,
            "then": parts,
            "else": parts,
            "dependentRequired": st.sampled_from([{}, {"a": ["b"]}]),
            "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), parts, max_size=1),
        },
    )


@settings(max_examples=800, deadline=None)
@given(st.recursive(leaves, keywords, max_leaves=8), st.lists(values, min_size=1, max_size=8))
def test_the_same_values_are_valid(schema: Any, instances: list[Any]) -> None:
    said = plain(schema)
    assert plain(said) == said
    try:
        check(schema, "s")
    except ApiError:
        return  # it is not followed
    before, after = (jsonschema.Draft202012Validator(each) for each in (schema, said))
    for instance in instances:
        assert before.is_valid(instance) == after.is_valid(instance), (schema, said, instance)


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
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"$anchor": "leaf", "type": "null"}}},
        ),
        (
            {"$id": "http://x/y", "items": {"$ref": "http://x/y#/$defs/z"}, "$defs": {"z": {}}},
            {"$id": "http://x/y", "items": {"$ref": "#/$defs/z"}, "$defs": {"z": {}}},
        ),
    ],
)
def test_what_becomes_of_keywords(schema: Any, expected: Any) -> None:
    assert plain(schema) == expected
    check(schema, "s")


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]}, "s.unevaluatedProperties"),
        ({"unevaluatedItems": False, "contains": {}}, "s.contains"),
        ({"propertyNames": {"pattern": "a"}, "properties": {"b": {}}}, "s.propertyNames"),
        ({"if": {}, "then": {}}, "s.if"),
        ({"$ref": "#nowhere"}, "s.$ref"),
        ({"properties": {"p": {"$id": "q", "$anchor": "r"}}, "$ref": "#r"}, "s.$ref"),
    ],
)
def test_what_cannot_be_said_otherwise_is_refused_where_it_stands(schema: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        check(schema, "s")
    assert refused.value.param == param
