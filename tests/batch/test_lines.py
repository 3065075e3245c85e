"""Lines of input files, as programs and enemies write them: each is answered, or told what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.core.lines import MAX_ERRORS, Checker, Raw, Splitter, parse

CHAT = "/v1/chat/completions"
LONGEST = 200


def split(content: bytes, sizes: list[int], longest: int = LONGEST) -> list[Raw]:
    """The lines of a file that is read in chunks of these sizes, then as a whole."""
    splitter, found, at = Splitter(longest), [], 0
    for size in [*sizes, len(content)]:
        found += splitter.feed(content[at : at + size])
        at += size
        held = sum(map(len, splitter._parts))
        assert held <= longest + 3, "more is held than a line may have"
    return [*found, *splitter.end()]


def line(custom_id: Any = "a", **other: Any) -> bytes:
    """A good line, but for what is given."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **other}).encode()


def check(*lines: bytes | None, most: int = 100) -> Checker:
    checker = Checker(CHAT, most)
    for number, data in enumerate(lines, start=1):
        checker.look(Raw(number, 0, data))
    checker.end()
    return checker


@settings(max_examples=300)
@given(
    st.lists(st.one_of(st.binary(max_size=60).filter(lambda b: b"\n" not in b), st.just(b"x" * (LONGEST + 9)))),
    st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.lists(st.integers(0, 40), max_size=60),
)  # fmt: skip
def test_lines_are_the_same_however_the_file_is_read(
    lines: list[bytes], end: bytes, ended: bool, marked: bool, sizes: list[int]
) -> None:
    content = (b"\xef\xbb\xbf" if marked else b"") + end.join(lines) + (end if ended else b"")
    found = split(content, sizes)
    assert found == split(content, [])
    wanted = [each.removesuffix(b"\r") for each in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    if not content.split(b"\n")[-1]:
        wanted.pop()
    assert [raw.data for raw in found] == [each if len(each) <= LONGEST else None for each in wanted]
    assert [raw.number for raw in found] == list(range(1, len(found) + 1))
    for raw in found:
        assert raw.data is None or content[raw.offset : raw.offset + len(raw.data)] == raw.data


def test_a_line_without_end_costs_no_memory() -> None:
    splitter = Splitter(LONGEST)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 1000)) == []
        assert sum(map(len, splitter._parts)) <= LONGEST
    assert [raw.data for raw in splitter.feed(b"\n{}\n")] == [None, b"{}"]


def test_what_editors_leave_is_no_problem() -> None:
    checker = check(line("a"), b"", b"  \t ", line("b"), b"")
    assert not checker.problems
    assert (checker.lines, checker.model) == (2, "m")


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"not json", "invalid_json_line", None),
        (b'{"custom_id": "a"', "invalid_json_line", None),
        (b"[]", "invalid_type", None),
        (b"\xff\xfe{\x00}\x00", "invalid_utf8", None),
        (b'{"custom_id": "\xff"}', "invalid_utf8", None),
        (line(body=7).replace(b"7", b"[" * 100_000 + b"]" * 100_000), "invalid_json_line", None),
        (line(body=json.loads("[" * 900 + "]" * 900)), "invalid_type", "body"),
        (None, "line_too_long", None),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_type", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(url="http://elsewhere/v1/chat/completions"), "invalid_url", "url"),
        (line(priority=1), "unknown_parameter", "priority"),
        (line(body=[]), "invalid_type", "body"),
        (line(body={"messages": []}), "missing_required_parameter", "body.model"),
        (line(body={"model": ""}), "missing_required_parameter", "body.model"),
        (line(body={"model": 3}), "invalid_type", "body.model"),
        (line(body={"model": "m", "stream": True}), "unsupported_parameter", "body.stream"),
        (line(body={"model": "m", "background": True}), "unsupported_parameter", "body.background"),
        (json.dumps({"custom_id": "b", "method": "POST", "url": CHAT}).encode(), "missing_required_parameter", "body"),
    ],
    ids=range(22),
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(wrong: bytes | None, code: str, param: str | None) -> None:
    (problem,) = check(line("good"), wrong).problems
    assert (problem.code, problem.param, problem.line) == (code, param, 2)
    assert problem.message


def test_ids_are_told_apart_and_models_are_one() -> None:
    twice, other = check(line("a"), line("a"), line("b", body={"model": "n"})).problems
    assert (twice.code, twice.line) == ("duplicate_custom_id", 2)
    assert (other.code, other.line) == ("mismatched_model", 3)


def test_an_empty_file_and_too_many_lines_are_refused() -> None:
    assert [each.code for each in check(b"", b" ").problems] == ["empty_file"]
    assert [each.code for each in check(*(line(str(n)) for n in range(4)), most=3).problems] == ["too_many_lines"]


def test_a_file_of_nonsense_is_not_read_to_its_end() -> None:
    assert check(*[b"x"] * MAX_ERRORS).hopeless


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_no_bytes_are_an_exception(data: bytes) -> None:
    checker = Checker(CHAT, 10)
    checker.look(Raw(1, 0, data))


def test_a_body_is_sent_as_it_is_written() -> None:
    written = b'{"model":"m",  "messages":[{"role":"user","content":"\\u00e9"}], "seed":1e2}'
    data = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + written + b"}"
    assert bytes(parse(data).body) == written
