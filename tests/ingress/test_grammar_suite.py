"""The JSON Schema Test Suite: nothing that is not valid is let through, and no schema that was followed stops to be.

`json_schema_suite/` holds its 2020-12 schemas (main, and formats), as of jsonschema 4.26.0's source distribution.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llguidance

from bus.grammars import LIMITS
from ingress.errors import ApiError
from ingress.grammar.schema import check
from ingress.grammar.tried import new_tokenizer, tried
from ingress.grammar.wanted import schema_wanted
from ingress.grammar.writing import grammar

SUITE = Path(__file__).parent / "json_schema_suite" / "draft2020-12.json.xz"


class Found(NamedTuple):
    followed: int
    let_through: list[str]
    kept_out: list[str]


def cases(formats: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schemas in json.loads(lzma.decompress(SUITE.read_bytes())).items():
        if name.startswith("format/") == formats:
            yield from ((f"{name}: {case['description']}", case) for case in schemas)


def run(formats: bool) -> Found:
    tokenizer, limits = new_tokenizer(), llguidance.LLParserLimits(**LIMITS)
    found = Found(0, [], [])
    for name, case in cases(formats):
        try:
            check(case["schema"], "s")
        except ApiError:
            continue
        outcome = tried(grammar(schema_wanted(case["schema"], "s"), None, {}), tokenizer, limits)
        if outcome.trouble:
            continue
        found = found._replace(followed=found.followed + 1)
        whole = llguidance.LLMatcher(tokenizer, outcome.text, log_level=0, limits=limits)
        for test in case["tests"]:
            if accepted(whole, test["data"]) != test["valid"]:
                (found.kept_out if test["valid"] else found.let_through).append(f"{name}: {test['description']}")
    return found


def accepted(whole: Any, value: Any) -> bool:
    """In one of the ways in which it can be written down."""
    for escaped in (False, True):
        try:
            data = json.dumps(value, ensure_ascii=escaped).encode()
        except UnicodeEncodeError:
            continue
        matcher = whole.deep_copy()
        if all(matcher.consume_token(byte) for byte in data) and matcher.is_accepting():
            return True
    return False


def test_nothing_that_is_not_valid_is_let_through() -> None:
    found = run(formats=False)
    assert not found.let_through
    assert found.followed >= 305  # of 368, 12 of which allow nothing; it may only grow
    assert len(found.kept_out) <= 32, (
        found.kept_out
    )  # values that are written in another order, or as `1.0`, or formats


def test_formats_are_what_they_are_named_for() -> None:
    found = run(formats=True)
    assert not found.let_through
    assert found.followed >= 19  # of 20: `regex` is not
