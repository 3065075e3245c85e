"""Anthropic's messages over HTTP, with the official package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from api_stage import CONTEXT, Stage, answer, staged

from bus.messages.requests import Refused

pytestmark = pytest.mark.system

ASK: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(settings='max_body = "1MiB"') as stage:
        yield stage
        assert "Traceback" not in stage.logs()


@pytest.fixture
def client(stage: Stage) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stage.url, api_key="k", max_retries=0, timeout=60)


def post(
    stage: Stage, path: str = "/v1/messages", headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    whole = {"model": "m", "messages": ASK, "max_tokens": 20, "seed": 0, **body}
    if path.endswith("count_tokens"):
        del whole["max_tokens"]
    return httpx.post(stage.url + path, json=whole, headers=headers, timeout=60)


def test_a_whole_message_and_its_account(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="m", max_tokens=20, messages=ASK, system="Be brief.", extra_body={"seed": 0})
    assert [block.text for block in message.content if block.type == "text"] == [answer(0, 20)]
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.output_tokens == 20
    count = client.messages.count_tokens(model="m", messages=ASK, system="Be brief.")
    assert count.input_tokens == message.usage.input_tokens


def test_how_it_ended(client: anthropic.Anthropic) -> None:
    ended = client.messages.create(model="m", max_tokens=1500, messages=ASK, extra_body={"seed": 0})
    assert ended.stop_reason == "end_turn"
    stopped = client.messages.create(
        model="m", max_tokens=50, messages=ASK, stop_sequences=["zzz", "wör"], extra_body={"seed": 0}
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "wör")
    assert stopped.content[0].text == "Hello, "  # type: ignore[union-attr]


def test_a_stream_says_what_the_whole_says(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="m", max_tokens=40, messages=ASK, stop_sequences=["😀"], extra_body={"seed": 0, "priority": 2}
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = client.messages.create(
        model="m", max_tokens=40, messages=ASK, stop_sequences=["😀"], extra_body={"seed": 0}
    )
    assert text == final.content[0].text == whole.content[0].text == "Hello, wörld "  # type: ignore[union-attr]
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_events_are_named_and_in_their_order(stage: Stage) -> None:
    reply = post(stage, stream=True)
    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    names = [lines[0].removeprefix("event: ") for lines in events]
    bodies = [json.loads(lines[-1].removeprefix("data: ")) for lines in events]
    assert names == [body["type"] for body in bodies]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert bodies[0]["message"]["content"] == []
    # It can be gone on with like any stream, by its event ids.
    ids = [lines[1].removeprefix("id: ") for lines in events]
    rest = httpx.get(f"{stage.url}/v1/streams/{bodies[0]['message']['id']}", headers={"last-event-id": ids[2]})
    assert rest.text.strip().split("\n\n") == ["\n".join(lines) for lines in events[3:]]


def test_an_assistants_last_turn_is_gone_on_with(stage: Stage) -> None:
    begun = post(stage, messages=[*ASK, {"role": "assistant", "content": "So"}])
    anew = post(stage, messages=[*ASK, {"role": "assistant", "content": "So"}, {"role": "user", "content": ""}])
    assert begun.status_code == 200, begun.text
    assert begun.json()["usage"]["input_tokens"] < anew.json()["usage"]["input_tokens"]


def test_blocks_and_tools_of_the_past_reach_the_template(stage: Stage) -> None:
    def tokens(messages: list[Any]) -> int:
        reply = post(stage, "/v1/messages/count_tokens", messages=messages)
        assert reply.status_code == 200, reply.text
        return int(reply.json()["input_tokens"])

    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    assert tokens([{"role": "user", "content": blocks}]) == tokens([{"role": "user", "content": "a\nb"}])
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    with_tools = [
        *ASK,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "wait"}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
    ]
    without = [*ASK, {"role": "assistant", "content": "wait"}, {"role": "user", "content": "so?"}]
    assert tokens(with_tools) >= tokens(without) + len("sunny")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),  # the template knows none
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}, "max_tokens": 20}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}, "max_tokens": 10}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),  # the model does not think
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"nonsense": 1}, "nonsense"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(stage: Stage, body: dict[str, Any], param: str) -> None:
    reply = post(stage, **body)
    assert reply.status_code == 400, reply.text
    told = reply.json()
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["param"] == param
    harmless = {"tools": [], "thinking": {"type": "disabled"}, "service_tier": "auto", "metadata": {"user_id": "u"}}
    assert post(stage, **harmless).status_code == 200


def test_versions_and_keys(stage: Stage) -> None:
    for version in ("2023-06-01", "2026-10-21"):
        assert post(stage, headers={"anthropic-version": version}, temperature=0).status_code == 200
    reply = post(stage, headers={"anthropic-version": "1999-01-01"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "anthropic-version")
    # The key is the same in either header: it says whose stream it is.
    name = post(stage, headers={"x-api-key": "mine"}, stream=True).headers["x-request-id"]
    path = f"{stage.url}/v1/streams/{name}"
    assert httpx.get(path, headers={"authorization": "Bearer mine"}).status_code == 200
    assert httpx.get(path, headers={"x-api-key": "other"}).status_code == 404


def test_errors_are_the_packages_own(stage: Stage, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="x", max_tokens=5, messages=ASK)
    assert unknown.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="m", max_tokens=CONTEXT * 2, messages=ASK)
    with pytest.raises(anthropic.APIStatusError) as large:
        client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x" * (1 << 21)}])
    assert (large.value.status_code, large.value.body["error"]["type"]) == (413, "request_too_large")  # type: ignore[index]
    for refusal, kind, name in (
        (Refused(0, "overloaded", "full", 1.0), anthropic.RateLimitError, "rate_limit_error"),
        (Refused(0, "not_ready", "soon", 1.0), anthropic.InternalServerError, "overloaded_error"),
        (Refused(0, "quarantined", "no"), anthropic.InternalServerError, "api_error"),
    ):
        stage.player.refusal = refusal
        try:
            with pytest.raises(kind) as told:
                client.messages.create(model="m", max_tokens=5, messages=ASK)
        finally:
            stage.player.refusal = None
        assert told.value.body["error"]["type"] == name  # type: ignore[index]
        assert (told.value.status_code == 529) == (name == "overloaded_error")


def test_an_error_in_a_stream_is_an_event_that_the_package_raises(stage: Stage, client: anthropic.Anthropic) -> None:
    more = {"seed": 0, "priority": 20}
    with client.messages.stream(model="m", max_tokens=1500, messages=ASK, extra_body=more) as stream:
        assert next(stream).type == "message_start"
        stage.player.fail(stage.player.submits[-1].request)
        with pytest.raises(anthropic.APIStatusError) as told:
            list(stream)
    assert told.value.body["error"]["type"] == "api_error"  # type: ignore[index]


def test_other_paths_below_are_refused_in_the_same_shape(stage: Stage) -> None:
    for path, status in (("/v1/messages", 405), ("/v1/messages/nothing", 404), ("/v1/messages/count_tokens", 405)):
        reply = httpx.get(stage.url + path)
        assert (reply.status_code, reply.json()["type"]) == (status, "error")
