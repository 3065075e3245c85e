"""What a schema is not: a value is valid against one of the two, whatever the schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.grammar.complement import Follow, Unsayable, complement
from ingress.grammar.parts import Room

FOLLOWED = {"#/$defs/a": {"type": "array", "maxItems": 1}, "#/$defs/own": {"anyOf": [{"$ref": "#/$defs/own"}]}}
NAMES = ["a", "b", "a]", "^", "ab"]
scalars = st.one_of(st.integers(-1, 3), st.sampled_from([0.5, 1.5, True, False, None, *NAMES, "aé", "", "a\nb"]))
values = st.recursive(
    scalars,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(NAMES), parts, max_size=4),
    max_leaves=6,
)
counts = st.integers(0, 3)
leaf = st.one_of(
    st.booleans(),
    st.builds(lambda kinds: {"type": kinds}, st.sampled_from(["string", ["null", "object"], "number", "array", []])),
    st.builds(lambda value: {"const": value}, scalars),
    st.builds(lambda some: {"enum": some}, st.lists(scalars, min_size=1, max_size=4)),
    st.builds(
        lambda key, number: {key: number},
        st.sampled_from(
            [f"{side}{what}" for side in ("min", "max") for what in ("Length", "Items", "Properties")]
            + ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
        ),
        counts,
    ),
    st.builds(lambda names: {"required": names}, st.lists(st.sampled_from(NAMES), max_size=2, unique=True)),
    st.just({"$ref": "#/$defs/a"}),
)
schemas = st.recursive(
    leaf,
    lambda parts: st.one_of(
        st.builds(lambda some: {"anyOf": some}, st.lists(parts, min_size=1, max_size=3)),
        st.builds(lambda some: {"allOf": some}, st.lists(parts, min_size=1, max_size=3)),
        st.builds(lambda part: {"items": part}, parts),
        st.builds(lambda some: {"prefixItems": some, "items": False}, st.lists(parts, min_size=1, max_size=2)),
        st.builds(lambda some: {"properties": some, "type": "object"}, st.dictionaries(st.sampled_from(NAMES), parts)),
        st.builds(lambda part, least, most: {"contains": part, "minContains": least, "maxContains": most},
                  parts, counts, counts),
        st.builds(lambda part, low: {"contains": part, "minContains": low}, parts, counts),
    ),
    max_leaves=5,
)  # fmt: skip
follow: Follow = FOLLOWED.__getitem__


def whole(schema: Any) -> Any:
    definitions = {name.rpartition("/")[2]: part for name, part in FOLLOWED.items()}
    return jsonschema.Draft202012Validator({"allOf": [schema], "$defs": definitions})


@settings(max_examples=150, deadline=None)
@given(schemas, st.lists(values, min_size=3, max_size=10))
def test_a_value_is_valid_against_one_of_the_two(schema: Any, instances: list[Any]) -> None:
    other = complement(schema, follow, Room())
    for instance in instances:
        assert whole(schema).is_valid(instance) != whole(other).is_valid(instance), (schema, other, instance)


@pytest.mark.parametrize("most", ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"])
def test_every_number_of_what_there_is(most: str) -> None:
    counted = [of for n in range(5) for of in ("x" * n, [0] * n, {str(at): 0 for at in range(n)}, n)]
    for number in range(4):
        other = complement({most: number}, follow, Room())
        for instance in counted:
            assert whole({most: number}).is_valid(instance) != whole(other).is_valid(instance), (
                number,
                other,
                instance,
            )


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "a"}, {"type": "integer"}, {"multipleOf": 2}, {"$ref": "#/$defs/own"}, {"$ref": "#/$defs/none"},
     {"additionalProperties": {"type": "null"}}, {"const": [1]}, {"const": "x" * 200}],
)  # fmt: skip
def test_what_there_are_no_words_for(schema: Any) -> None:
    with pytest.raises(Unsayable):
        complement(schema, follow, Room())
