"""Tools called by a real model, through the official packages of OpenAI and Anthropic, whoever dies on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from stack import SMOLLM2_KERNELS, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

QWEN = SMOLLM2_KERNELS.replace("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct").replace('"smollm2"', '"qwen"')
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Name of the city", "maxLength": 40},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city", "parameters": PARAMETERS},
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time in a time zone",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "maxLength": 40}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, CLOCK)}
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris in celsius? Use a tool."}]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(QWEN, ingresses=2) as stack:
        until(lambda: stack.replicas_ready() == 1, 240, "a replica")
        yield stack


@pytest.fixture
def gpt(stack: Stack) -> openai.OpenAI:
    headers = {"connection": "close"}
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="k", max_retries=0, timeout=240, default_headers=headers)


@pytest.fixture
def claude(stack: Stack) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stack.url, api_key="k", max_retries=0, timeout=240)


def chat(gpt: openai.OpenAI, **parameters: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "qwen", "messages": ASK, "tools": [WEATHER, CLOCK], "temperature": 0, "max_tokens": 200,
    }  # fmt: skip
    return gpt.chat.completions.create(**{**asked, **parameters})


def valid(name: str, arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(arguments)
    jsonschema.validate(value, SCHEMAS[name])
    return value


@pytest.mark.parametrize(
    "more", [{"best_of": 3}, {"use_beam_search": True, "beam_width": 2}], ids=["the best of samples", "beams"]
)
def test_tools_are_called_by_whatever_is_chosen(gpt: openai.OpenAI, more: dict[str, Any]) -> None:
    choice = chat(
        gpt, tool_choice="required", parallel_tool_calls=False, temperature=1, seed=1, max_tokens=120, extra_body=more
    ).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    valid(call.function.name, call.function.arguments)


def test_a_call_and_its_answer(gpt: openai.OpenAI) -> None:
    # Left to itself this model writes calls without their marks, as text.
    choice = chat(gpt, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert "Paris" in valid("get_weather", call.function.arguments)["city"]
    told = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    after = chat(gpt, messages=[*ASK, choice.message.model_dump(exclude_none=True), told]).choices[0]
    assert after.finish_reason in ("stop", "tool_calls", "length")


def test_streamed_arguments_are_the_whole_ones(gpt: openai.OpenAI) -> None:
    only: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
    whole = chat(gpt, **only).choices[0].message.tool_calls[0]
    name, arguments, deltas, ids, reasons = "", "", 0, [], []
    for chunk in chat(gpt, stream=True, **only):
        for choice in chunk.choices:
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for call in choice.delta.tool_calls or ():
                assert call.index == 0
                ids += [call.id] if call.id else []
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                deltas += 1
    assert (name, arguments) == (whole.function.name, whole.function.arguments)
    assert deltas > 3
    assert len(ids) == 1
    assert reasons == ["tool_calls"]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_choices_are_followed(gpt: openai.OpenAI, temperature: float) -> None:
    manner: dict[str, Any] = {"temperature": temperature, "seed": 5}
    hello = [{"role": "user", "content": "Say hello."}]
    required = chat(gpt, messages=hello, tool_choice="required", parallel_tool_calls=False, **manner).choices[0]
    (call,) = required.message.tool_calls
    valid(call.function.name, call.function.arguments)
    assert required.finish_reason == "tool_calls"
    named = {"type": "function", "function": {"name": "get_time"}}
    choice = chat(gpt, messages=hello, tool_choice=named, **manner).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_time"
    assert choice.finish_reason == "stop"
    valid("get_time", call.function.arguments)
    nothing = chat(gpt, tool_choice="none", **manner).choices[0]
    assert nothing.message.tool_calls is None
    auto = chat(gpt, messages=hello, **manner).choices[0]
    for one in auto.message.tool_calls or ():
        valid(one.function.name, one.function.arguments)


def test_responses(gpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in (WEATHER, CLOCK)]
    asked: dict[str, Any] = {
        "model": "qwen", "temperature": 0, "max_output_tokens": 200, "tools": tools, "tool_choice": "required",
        "parallel_tool_calls": False,
    }  # fmt: skip
    response = gpt.responses.create(input=ASK, **asked)
    (call,) = response.output
    assert call.type == "function_call"
    assert "Paris" in valid(call.name, call.arguments)["city"]
    after = gpt.responses.create(
        previous_response_id=response.id, **{**asked, "tool_choice": "auto"},
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}],
    )  # fmt: skip
    assert after.status in ("completed", "incomplete")
    with gpt.responses.stream(input=ASK, **asked) as events:
        deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
        assert deltas == call.arguments
        assert events.get_final_response().output[0].arguments == call.arguments  # type: ignore[union-attr]


def test_messages(claude: anthropic.Anthropic) -> None:
    tools: Any = [{"name": name, "input_schema": schema, "description": name} for name, schema in SCHEMAS.items()]
    asked: dict[str, Any] = {
        "model": "qwen", "max_tokens": 200, "tools": tools, "tool_choice": {"type": "any"},
        "extra_body": {"temperature": 0},
    }  # fmt: skip
    message = claude.messages.create(messages=ASK, **asked)
    assert message.stop_reason == "tool_use"
    call = message.content[0]
    assert call.type == "tool_use"
    jsonschema.validate(call.input, SCHEMAS[call.name])
    with claude.messages.stream(messages=ASK, **asked) as stream:
        streamed = stream.get_final_message()
    assert [(block.name, block.input) for block in streamed.content if block.type == "tool_use"] == [
        (block.name, block.input) for block in message.content if block.type == "tool_use"
    ]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 21}'}
    turns: Any = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    after = claude.messages.create(messages=turns, **{**asked, "tool_choice": {"type": "auto"}})
    assert after.stop_reason in ("end_turn", "tool_use", "max_tokens")
    counted = claude.messages.count_tokens(model="qwen", messages=ASK, tools=tools).input_tokens
    assert counted == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("victim", ["worker@qwen.0.0", "ingress@0", "ingress@1"])
def test_a_kill_in_the_middle_of_a_call_changes_nothing(stack: Stack, gpt: openai.OpenAI, victim: str) -> None:
    manner: dict[str, Any] = {"temperature": 1.2, "seed": 11, "tool_choice": "required", "max_tokens": 120}
    whole = [
        (call.function.name, call.function.arguments) for call in chat(gpt, **manner).choices[0].message.tool_calls
    ]
    until(lambda: stack.replicas_ready() == 1 and bool(stack.pid(victim)), 120, "a whole stack")
    body = {"model": "qwen", "messages": ASK, "tools": [WEATHER, CLOCK], "stream": True, **manner}
    assert streamed_with_a_kill(stack, body, victim) == whole
    until(lambda: stack.replicas_ready() == 1 and bool(stack.pid(victim)), 120, "a whole stack")


def streamed_with_a_kill(stack: Stack, body: dict[str, Any], victim: str) -> list[tuple[str, str]]:
    """The calls of a stream whose reader comes back by the last event that it has seen."""
    calls: dict[int, tuple[str, str]] = {}
    headers, last, method, path = {"x-resumable": "true"}, "", "POST", "/v1/chat/completions"
    for _ in range(200):
        try:
            with httpx.stream(
                method, f"{stack.url}{path}", json=body if method == "POST" else None, headers=headers, timeout=240
            ) as reply:
                for line in reply.iter_lines() if reply.status_code == 200 else ():
                    if line.startswith("id: "):
                        last = line[4:]
                    elif line == "data: [DONE]":
                        return list(calls.values())
                    elif line.startswith("data: "):
                        event = json.loads(line[6:])
                        assert "error" not in event, event
                        for choice in event["choices"]:
                            for call in choice["delta"].get("tool_calls") or ():
                                name, arguments = calls.get(call["index"], ("", ""))
                                function = call["function"]
                                calls[call["index"]] = (
                                    name + function.get("name", ""), arguments + function["arguments"],
                                )  # fmt: skip
                        if victim and sum(len(arguments) for _, arguments in calls.values()) > 5:
                            stack.kill(victim)
                            victim = ""
        except httpx.HTTPError:
            pass
        if last:
            method, path, headers = "GET", f"/v1/streams/{last.rpartition(':')[0]}", {"last-event-id": last}
    raise AssertionError(f"no end after {calls}")
