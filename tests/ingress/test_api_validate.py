"""What a request may say: every parameter of OpenAI's schema is known, every wrong one is named."""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from ingress.api import validate
from ingress.api.schema_chat import ChatRequest
from ingress.api.schema_completion import CompletionRequest
from ingress.errors import ApiError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def chat(**changes: Any) -> ChatRequest:
    return validate.chat_request(json.dumps({**CHAT, **changes}).encode())


def completion(**changes: Any) -> CompletionRequest:
    return validate.completion_request(json.dumps({**COMPLETION, **changes}).encode())


def refused(call: Any, **changes: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(**changes)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def openai_parameters(module: Any) -> set[str]:
    """The parameters that the installed official package knows."""
    bases = [kind for name, kind in inspect.getmembers(module) if name.startswith("CompletionCreateParams")]
    return {name for kind in bases if hasattr(kind, "__annotations__") for name in kind.__annotations__}


def test_every_parameter_of_openai_is_known_by_name() -> None:
    assert openai_parameters(chat_create_params) <= fields(ChatRequest)
    assert openai_parameters(completion_create_params) <= fields(CompletionRequest)


def test_the_extensions_of_the_field_are_known() -> None:
    names = {
        "ignore_eos", "min_tokens", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "return_token_ids",
        "prompt_logprobs", "priority", "cache_salt", "include_stop_str_in_output", "skip_special_tokens",
    }  # fmt: skip
    assert names <= fields(ChatRequest)
    assert names <= fields(CompletionRequest)
    assert {"add_generation_prompt", "continue_final_message", "chat_template_kwargs"} <= fields(ChatRequest)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": 5}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"min_p": 1.1}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"stream": True, "stream_options": {"nonsense": True}}, "stream_options.nonsense"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "some"}, "tool_choice"),
        ({"function_call": "auto"}, "function_call"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}},
            "response_format.json_schema.schema.uniqueItems",
        ),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": ""}}, "prediction"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
        ({"thinking_budget": 10}, "thinking_budget"),
        ({"enable_thinking": False}, "enable_thinking"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include_reasoning": False}, "include_reasoning"),
        ({"verbosity": "low"}, "verbosity"),
        ({"moderation": {}}, "moderation"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"user": 5}, "user"),
        ({"surprise": 1}, "surprise"),
    ],
)  # fmt: skip
def test_what_a_chat_may_not_say_is_named(changes: dict[str, Any], param: str) -> None:
    error = refused(chat, **changes)
    assert error.param == param.replace("[...]", "")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": ["a", [1]]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [2**32]}, "prompt[0]"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 20, "n": 16}, "prompt"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_a_completion_may_not_say_is_named(changes: dict[str, Any], param: str) -> None:
    assert refused(completion, **changes).param == param


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"store": False},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"service_tier": "flex"},
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}},
        {"parallel_tool_calls": True},
        {"top_k": -1},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": False, "top_logprobs": None},
        {"stop": None, "seed": -5, "temperature": 0, "n": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        # What an answer looks like when the official package gives it back.
        {"messages": [{"role": "assistant", "content": "x", "refusal": None, "annotations": None, "audio": None,
                       "function_call": None, "tool_calls": None}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "4", "tool_call_id": "1"}]},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(changes: dict[str, Any]) -> None:
    chat(**changes)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"  ", "invalid_json"),
        (b"{", "invalid_json"),
        (b"{'model': 1}", "invalid_json"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}]}{}', "invalid_json"),
        (b"[]", "invalid_type"),
        (b'"x"', "invalid_type"),
        (b"null", "invalid_type"),
        (b"\xff\xfe{}", "invalid_utf8"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xc3\x28"}]}', "invalid_utf8"),
        (b'{"model":"m","audio":"\xff"}', "invalid_utf8"),
        (b'{"model":"m","audio":' + b"[" * 100_000, "invalid_json"),
        (b'{"model":"m"}', "missing_required_parameter"),
        (b'{"messages":[{"role":"user","content":"x"}]}', "missing_required_parameter"),
    ],
)
def test_bodies_that_are_no_request(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        validate.chat_request(body)
    assert caught.value.status == 400
    assert caught.value.code == code


def test_prompts_are_told_apart() -> None:
    for given_prompt, expected in (
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ):
        assert validate.prompts_of(completion(prompt=given_prompt)) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted(fields(ChatRequest) | fields(CompletionRequest)))


@given(changes=st.dictionaries(NAMES, JSON, max_size=4), raw=st.binary(max_size=40))
def test_any_body_is_a_request_or_a_400(changes: dict[str, Any], raw: bytes) -> None:
    """No JSON value under any name, and no bytes, get past validation as anything but an `ApiError` of 400."""
    for body in (json.dumps({**CHAT, **changes}).encode(), json.dumps({**COMPLETION, **changes}).encode(), raw):
        for check in (
            validate.chat_request,
            validate.completion_request,
            validate.tokenize_request,
            validate.detokenize_request,
        ):
            assert outcome(check, body) in (None, 400)


def outcome(check: Any, body: bytes) -> int | None:
    try:
        check(body)
    except ApiError as error:
        return error.status
    return None
