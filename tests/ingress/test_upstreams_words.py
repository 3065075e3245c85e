"""What is said to upstreams and heard from them, without one: events however they are cut, bodies, refusals,
accounts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.config.upstreams import Capability
from ingress.api import validate
from ingress.api.schema_chat import ChatRequest
from ingress.errors import ApiError
from ingress.job import Job
from ingress.router.cascade import Checking, refuses, value_of
from ingress.router.cascade import margin as margin_of
from ingress.streams import Finish, Part, Piece, TokenText, Usage
from ingress.upstreams import anthropic, openai
from ingress.upstreams.asking import needs, unspoken
from ingress.upstreams.heard import Complaint, Counted, Garbage
from ingress.upstreams.refusals import LONGEST_WAIT_S, from_status, wait_of
from ingress.upstreams.sse import Event, Events
from ingress.upstreams.usage import Said, account

JOB = Job(model="s", prompt=(), max_tokens=9)
texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3), st.sampled_from([b"", b": ping"])), max_size=5),
    ends, st.lists(st.integers(1, 9), max_size=40), st.booleans(),
)  # fmt: skip
def test_events_are_the_same_however_they_are_cut(
    told: list[tuple[str, list[str], bytes]], end: bytes, cuts: list[int], mark: bool
) -> None:
    data = b"\xef\xbb\xbf" if mark else b""
    for kind, lines, comment in told:
        parts = [comment] if comment else []
        parts += [b"event: " + kind.encode()[:64]] if kind else []
        parts += [b"data: " + line.encode() for line in lines]
        data += end.join([*parts, b"", b""])
    # One of CR alone cannot be told from half an end until more comes.
    data += b"\n" if end == b"\r" else b""
    whole = _read([data])
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    assert _read([*pieces, data[at:]]) == whole
    assert [event.data for event in whole] == ["\n".join(lines) for _, lines, _ in told]


def _read(pieces: list[bytes]) -> list[Event]:
    events = Events()
    try:
        return [event for piece in pieces for event in events.feed(piece)]
    except Garbage as error:
        return [Event("garbage", str(error))]


def test_a_line_and_an_event_without_an_end_are_refused() -> None:
    with pytest.raises(Garbage):
        list(Events(100).feed(b"data: " + b"x" * 200))
    with pytest.raises(Garbage):
        list(Events(100).feed((b"data: " + b"x" * 40 + b"\n") * 5))
    with pytest.raises(Garbage):
        list(Events().feed(b"data: \xff\n\n"))


# --- accounts --------------------------------------------------------------------------------------------------------

numbers = st.none() | st.integers(-10, 10**7)


@settings(max_examples=500, deadline=None)
@given(
    st.none() | st.builds(Counted, numbers, numbers, numbers, numbers),
    st.builds(Said, *[st.integers(0, 5000)] * 5, st.none() | st.integers(1, 5000), st.booleans()),
)
def test_an_account_can_be_whatever_is_told(told: Counted | None, said: Said) -> None:
    usage = account(told, said)
    assert usage.prompt_tokens >= 0
    assert usage.completion_tokens >= usage.reasoning_tokens >= 0
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens
    if told is None:
        assert usage.estimated
    if not usage.estimated:
        assert told is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (told.prompt, told.completion)
        assert said.limit is None or usage.completion_tokens <= said.limit + 16
    # No upstream can have a caller charged for more than its text could be.
    if not said.opaque:
        assert usage.prompt_tokens <= max(said.prompt_bytes + 1024, said.prompt_tokens)


@pytest.mark.parametrize(
    ("told", "estimated"),
    [
        (Counted(100, 50), False), (Counted(100, 50, 80), False), (Counted(100, 300, None, 250), False),
        (Counted(None, 50), True), (Counted(100, None), True), (Counted(0, 50), True), (Counted(10_000, 50), True),
        (Counted(100, 5_000), True), (Counted(100, 0), True), (Counted(100, -5), True),
        (Counted(100, 50, None, 60), True),
    ],
)  # fmt: skip
def test_what_no_tokeniser_counts_is_not_believed(told: Counted, estimated: bool) -> None:
    assert account(told, Said(400, 200)).estimated is estimated


# --- refusals --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.integers(300, 599), st.binary(max_size=60) | st.sampled_from([b'{"error": {"message": "m"}}', b"[1]", b'"x"'])
)
def test_every_refusal_is_an_error_of_ours(status: int, body: bytes) -> None:
    error = from_status("m", status, body, {}, 0.0)
    assert 400 <= error.status <= 504
    assert error.code
    assert error.message


@pytest.mark.parametrize(
    "error",
    [
        {"message": "m", "type": "invalid_request_error", "code": "context_length_exceeded"},
        {"message": "m", "type": "exceed_context_size_error", "code": 400},  # llama.cpp, whose code is the status
        {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError", "code": 400},  # vLLM
        {"message": "prompt is too long: 9 tokens > 8 maximum", "type": "invalid_request_error"},  # Anthropic
    ],
)
def test_what_is_too_long_is_known_in_every_servers_words(error: dict[str, Any]) -> None:
    found = from_status("m", 400, json.dumps({"error": error}).encode(), {}, 0.0)
    assert (found.code, found.elsewhere) == ("context_length_exceeded", True)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0), ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None), ({"retry-after": "inf"}, None), ({"retry-after": "soon"}, None),
        ({"retry-after": "1e9"}, LONGEST_WAIT_S), ({}, None),
    ],
)  # fmt: skip
def test_an_upstream_says_when_to_come_back(headers: dict[str, str], wait: float | None) -> None:
    assert wait_of(headers, 60.0) == wait


# --- bodies and events -----------------------------------------------------------------------------------------------


def chat(offers: frozenset[Capability] = validate.EVERYTHING, **more: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **more}
    return validate.chat_request(json.dumps(body).encode(), offers)


def test_needs_name_the_parameter() -> None:
    assert needs(chat()) == {}
    assert needs(chat(seed=1, top_k=0, presence_penalty=0)) == {"seed": "seed"}
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert needs(chat(messages=[{"role": "user", "content": picture}])) == {"images": "messages[0].content"}
    assert unspoken(chat(), "openai") == ""
    assert unspoken(chat(logit_bias={"1": 1}), "openai") == "logit_bias"
    assert unspoken(chat(min_p=0.5), "anthropic") == "min_p"
    assert unspoken(chat(min_p=0.5), "openai") == ""


def test_an_anthropic_call_has_turns_that_alternate_and_a_limit() -> None:
    request = chat(
        messages=[
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "A"},
            {"role": "user", "content": "B"}, {"role": "developer", "content": "Really."},
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
            {"role": "tool", "content": "2", "tool_call_id": "t"},
        ],
        stop=["END"],
    )  # fmt: skip
    body = json.loads(anthropic.body(request, "claude", None))
    assert body["system"] == "Be brief.\n\nReally."
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert [block["text"] for block in body["messages"][0]["content"]] == ["A", "B"]
    assert body["messages"][1]["content"][0]["input"] == {"x": 1}
    assert body["messages"][2]["content"][0]["tool_use_id"] == "t"
    assert body["max_tokens"] == anthropic.DEFAULT_LIMIT
    assert body["stop_sequences"] == ["END"]
    with pytest.raises(ApiError):
        anthropic.body(chat(temperature=1.5), "claude", 5)


@settings(max_examples=300, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda children: st.lists(
    children, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "content", "usage", "index", "error", "type", "text", "message", "finish_reason"]),
        children, max_size=4), max_leaves=15))  # fmt: skip
def test_a_reader_reads_or_calls_it_garbage(value: Any) -> None:
    for reader in (openai.Reader(), anthropic.Reader()):
        try:
            heard = reader.read(Event("", json.dumps(value)))
        except (Garbage, Complaint):
            continue
        assert heard.reason in (None, "stop", "length", "content_filter")


def test_a_tool_that_nobody_gave_is_garbage() -> None:
    call = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}
    with pytest.raises(Garbage):
        openai.Reader().read(Event("", json.dumps(call)))
    with pytest.raises(Garbage):
        openai.Reader({"look"}).read(Event("", json.dumps(call)))  # which one?


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["look", "listen"]), st.lists(texts, max_size=4)), min_size=1, max_size=4),
    st.booleans(), st.integers(0, 3),
)  # fmt: skip
def test_calls_are_the_same_in_both_languages_and_however_they_are_counted(
    called: list[tuple[str, list[str]]], whole: bool, first: int
) -> None:
    told: list[tuple[Any, list[dict[str, Any]]]] = [(openai.Reader({"look", "listen"}), [])]
    if whole:  # some servers tell a call in one piece, and do not count
        told.append((openai.Reader({"look", "listen"}), []))
    told.append((anthropic.Reader({"look", "listen"}), []))
    for number, (name, pieces) in enumerate(called, start=first):
        begun = {"index": number, "id": f"x{number}", "function": {"name": name, "arguments": ""}}
        parts = [begun, *({"index": number, "function": {"arguments": text}} for text in pieces)]
        told[0][1].extend({"choices": [{"delta": {"tool_calls": [part]}}]} for part in parts)
        if whole:
            call = {"function": {"name": name, "arguments": "".join(pieces)}}
            told[1][1].append({"choices": [{"delta": {"tool_calls": [call]}}]})
        block = {"type": "tool_use", "id": "y", "name": name, "input": {}}
        told[-1][1].append({"type": "content_block_start", "index": number, "content_block": block})
        for text in pieces:
            delta = {"type": "input_json_delta", "partial_json": text}
            told[-1][1].append({"type": "content_block_delta", "index": number, "delta": delta})
        told[-1][1].append({"type": "content_block_stop", "index": number})
    for reader, heard in told:
        found: dict[int, tuple[str, str]] = {}
        for event in heard:
            for part in reader.read(Event("", json.dumps(event))).parts:
                before = found.get(part.call, (part.name, ""))
                assert part.name == before[0]
                found[part.call] = (part.name, before[1] + part.text)
        empty = "{}" if isinstance(reader, anthropic.Reader) else ""
        assert list(found) == list(range(len(called)))
        assert list(found.values()) == [(name, "".join(pieces) or empty) for name, pieces in called]


def test_a_call_that_has_ended_is_not_gone_on_with() -> None:
    reader = openai.Reader({"look"})
    for index, name in ((0, "look"), (1, "look")):
        part = {"index": index, "function": {"name": name, "arguments": "{"}}
        reader.read(Event("", json.dumps({"choices": [{"delta": {"tool_calls": [part]}}]})))
    for function in ({"arguments": "}"}, {"name": "look", "arguments": "}"}):
        late = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": function}]}}]}
        with pytest.raises(Garbage):
            reader.read(Event("", json.dumps(late)))


def test_tools_and_schemas_in_the_words_of_each() -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b")]
    choices: dict[str, tuple[Any, Any]] = {
        "auto": ("auto", {"type": "auto", "disable_parallel_tool_use": True}),
        "required": ("required", {"type": "any", "disable_parallel_tool_use": True}),
        "b": (
            {"type": "function", "function": {"name": "b"}},
            {"type": "tool", "name": "b", "disable_parallel_tool_use": True},
        ),
    }
    for openais, anthropics in choices.values():
        body = {
            "model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": openais,
            "parallel_tool_calls": False,
        }  # fmt: skip
        request = validate.chat_request(json.dumps(body).encode())
        said = json.loads(openai.body(request, "s", JOB))
        assert (said["tools"], said["tool_choice"], said["parallel_tool_calls"]) == (tools, openais, False)
        said = json.loads(anthropic.body(request, "s", 9))
        assert [tool["name"] for tool in said["tools"]] == ["a", "b"]
        assert said["tool_choice"] == anthropics
        assert needs(request)["tools"] == "tools"
    request = validate.chat_request(json.dumps(body | {"tool_choice": "none"}).encode())
    assert "tools" not in needs(request)
    assert "tools" not in json.loads(openai.body(request, "s", JOB))


# --- cascades --------------------------------------------------------------------------------------------------------


def checking(*checks: str, **more: Any) -> Checking:
    from bus.config.routes import CascadeConfig

    return Checking(CascadeConfig(first="a", then="b", checks=checks, **more))  # type: ignore[arg-type]


def end(reason: Any = "stop", text: str = "", parts: tuple[Part, ...] = ()) -> Piece:
    return Piece(text, finish=Finish(reason, Usage(1, 1)), parts=parts)


def token(gap: float) -> TokenText:
    return TokenText(1, b"x", -0.1, ((1, b"x", -0.1), (2, b"y", -0.1 - gap)))


@pytest.mark.parametrize(
    ("checks", "last", "failed"),
    [
        (("empty",), end(text="  \n"), "empty"),
        (("empty",), end(text="x"), ""),
        (("refusal",), end(text="I'm sorry, but I can't help with that."), "refusal"),
        (("refusal",), end(parts=(Part("refusal", "no"),)), "refusal"),
        (("refusal",), end("content_filter", "x"), "refusal"),
        (("refusal",), end(text="I am sorry for your loss. Here is what to do."), ""),
        (("truncated",), end("length", "x"), "truncated"),
        (("json",), end(text='```json\n{"a": 1}\n```'), ""),
        (("json",), end(text="{a: 1}"), "json"),
        (("tool_arguments",), end(parts=(Part("tool", '{"a": '),)), "tool_arguments"),
        (("tool_arguments",), end(parts=(Part("tool", '{"a": 1}'),)), ""),
        (("tool_arguments",), end(parts=(Part("tool", "{}", 0, "a"), Part("tool", "{}", 1, "b"))), ""),
        (("tool_arguments",), end(parts=(Part("tool", "{}", 0, "a"), Part("tool", "[", 1, "b"))), "tool_arguments"),
        (("empty",), end(parts=(Part("tool", "", 0, "a"),)), ""),
        (("empty",), end("error"), "error"),
    ],
)
def test_what_can_be_checked_is(checks: tuple[str, ...], last: Piece, failed: str) -> None:
    check = checking(*checks)
    assert check.hear(last) == ("fail" if failed else "pass")
    assert check.failed == failed


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 20), st.floats(0.1, 9), st.data())
def test_a_margin_is_that_of_the_first_tokens_however_they_come(
    gaps: list[float], tokens: int, least: float, data: st.DataObject
) -> None:
    check = checking("margin", margin=least, tokens=tokens)
    word, at = "wait", 0
    while word == "wait":
        count = data.draw(st.integers(1, 5))
        batch = gaps[at : at + count]
        at += count
        last = at >= len(gaps)
        word = check.hear(Piece("x", logprobs=tuple(map(token, batch)), finish=end().finish if last else None))
    first = gaps[:tokens]
    mean = sum(first) / len(first)
    if abs(mean - least) > 1e-6:
        assert word == ("pass" if mean > least else "fail")
    assert at < tokens + 5 or at >= len(gaps)  # no more is held back than it takes


def test_without_log_probabilities_a_margin_holds_nothing_back() -> None:
    from bus.config.routes import CascadeConfig

    check = Checking(CascadeConfig(first="a", then="b", checks=("margin",)), margins=False)
    assert check.hear(Piece("x")) == "pass"
    assert margin_of(TokenText(1, b"x", -0.1)) == 20.0


def test_phrases_of_refusals_are_those_of_its_beginning() -> None:
    assert refuses("Sorry, I can't do that.")
    assert refuses("As an AI language model, I do not have opinions.")
    assert not refuses("The phrase “I'm sorry, but I can't” is used to refuse.")
    assert value_of("[" * 100_000) is not None
