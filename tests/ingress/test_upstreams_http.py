"""Real ingresses before an upstream that misbehaves: what clients see, on every surface, and what is counted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, answer, staged, until
from upstream_stage import SAID, Upstream

pytestmark = pytest.mark.system

HASTY = "first_token_s = 1.0\nbetween_tokens_s = 1.0\nfailures = 100\nfailures_of = 100"
MODES = (
    "ok", "500", "429", "401", "400", "long", "hangs-up", "html", "redirect", "compressed", "garbage-first",
    "error-first", "endless-line", "silent", "pings", "empty-stream", "cuts", "stalls", "ends", "garbage-mid",
    "lies", "no-usage", "thinks", "slow",
)  # fmt: skip
BROKEN_BEFORE = {
    "500": (502, "upstream_failed"), "429": (429, "upstream_overloaded"), "401": (502, "upstream_failed"),
    "400": (400, "upstream_refused"), "long": (400, "context_length_exceeded"),
    "hangs-up": (502, "upstream_failed"), "html": (502, "upstream_failed"), "redirect": (502, "upstream_failed"),
    "compressed": (502, "upstream_failed"), "garbage-first": (502, "upstream_failed"),
    "error-first": (503, "upstream_overloaded"), "endless-line": (502, "upstream_failed"),
    "silent": (504, "upstream_timeout"), "pings": (504, "upstream_timeout"),
    "empty-stream": (502, "upstream_failed"),
}  # fmt: skip
BROKEN_OFF = ("cuts", "stalls", "ends", "garbage-mid")


def route(name: str, first: str, fallback: str) -> str:
    return f'[[route]]\nname = "{name}"\nfallbacks = ["{fallback}"]\npin_s = 0.0\n[[route.target]]\nmodel = "{first}"\n'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def stage(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text("sk-upstream\n")
    able = 'capabilities = ["json", "images", "reasoning"]'
    tables = "".join(upstream.table(mode, HASTY, model=able) for mode in MODES)
    tables += upstream.table("keyed", f'credential = "{key}"')
    tables += upstream.table("anthropic", f'credential = "{key}"', kind="anthropic")
    tables += upstream.table("overloads", HASTY, kind="anthropic")
    tables += upstream.table("tools", HASTY, model='capabilities = ["tools"]')
    tables += upstream.table("strays", HASTY, model='capabilities = ["tools"]')
    tables += upstream.table("ok", HASTY, model='capabilities = ["tools"]', name="mute") + route(
        "mute-or", "mute", "tools"
    )
    tables += upstream.table("a-tools", kind="anthropic", model='capabilities = ["tools", "json"]')
    tables += upstream.table("cuts", HASTY, model='continue_with = "m"\ntokenizer = "m"', name="goes-on")
    tables += upstream.table("moody", "failures = 2\nfailures_of = 4\nopen_s = 1.0\nfirst_token_s = 1.0")
    tables += "".join(route(f"r-{mode}", mode, "ok") for mode in (*BROKEN_BEFORE, "cuts"))
    tables += route("calls", "ok", "tools") + route("strays-or", "strays", "tools")
    tables += route("home", "500", "m") + route("fit", "m", "ok")
    with staged(tables=tables) as stage:
        yield stage


def chat(stage: Stage, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], **more}
    return httpx.post(f"{stage.url}/v1/chat/completions", json=body, timeout=60)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def said(text: str) -> str:
    return "".join(
        choice["delta"].get("content") or "" for event in events(text) for choice in event.get("choices", ())
    )


# --- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_whole_and_names_who_gave_it(stage: Stage, upstream: Upstream) -> None:
    reply = chat(stage, "ok", temperature=0.5)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["choices"][0]["message"]["content"] == SAID
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 9
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert "estimated" not in answer["usage"]
    assert reply.headers["x-headrace-target"] == "ok"
    sent = upstream.calls["ok"][-1]
    assert sent["model"] == "served-ok"
    assert sent["temperature"] == 0.5
    assert "top_p" not in sent  # what the caller does not say is not said


@pytest.mark.parametrize("model", ["ok", "anthropic"])
def test_a_stream_is_the_same_on_every_surface(stage: Stage, model: str) -> None:
    streamed = chat(stage, model, stream=True, stream_options={"include_usage": True})
    assert said(streamed.text) == SAID
    assert events(streamed.text)[-1]["usage"]["prompt_tokens"] == 9
    assert streamed.text.endswith("data: [DONE]\n\n")
    message = httpx.post(
        f"{stage.url}/v1/messages", timeout=60,
        json={"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Say hello."}]},
    ).json()  # fmt: skip
    assert message["content"][0]["text"] == SAID
    assert message["usage"]["input_tokens"] == 5
    response = httpx.post(f"{stage.url}/v1/responses", json={"model": model, "input": "Say hello."}, timeout=60).json()
    assert response["output"][0]["content"][0]["text"] == SAID
    assert response["status"] == "completed"


def test_the_credential_is_shown_to_the_upstream_and_not_the_clients_own(stage: Stage, upstream: Upstream) -> None:
    body = {"model": "keyed", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": "Bearer sk-of-the-client", "cookie": "a=b"}
    assert httpx.post(f"{stage.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
    assert upstream.headers["keyed"]["authorization"] == "Bearer sk-upstream"
    assert "cookie" not in upstream.headers["keyed"]
    assert chat(stage, "anthropic").status_code == 200
    assert upstream.headers["anthropic"]["x-api-key"] == "sk-upstream"


def test_calls_in_a_row_share_a_connection(stage: Stage, upstream: Upstream) -> None:
    for _ in range(6):
        assert chat(stage, "keyed").status_code == 200
    # A connection is kept whose answer ends soon after its last event, which on a busy machine it may not.
    assert len(set(upstream.peers["keyed"][-6:])) < 6


def test_a_thought_is_told_apart(stage: Stage) -> None:
    message = chat(stage, "thinks").json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", SAID)


def test_the_limit_is_passed_on_and_its_end_told(stage: Stage) -> None:
    answer = chat(stage, "ok", max_tokens=7).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_choices_are_calls_of_their_own(stage: Stage) -> None:
    answer = chat(stage, "ok", n=2).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == [SAID, SAID]


def test_models_elsewhere_and_routes_are_listed(stage: Stage) -> None:
    cards = {card["id"]: card for card in httpx.get(f"{stage.url}/v1/models").json()["data"]}
    assert cards["ok"]["owned_by"] == "ok"
    assert cards["fit"]["owned_by"] == "route"
    assert httpx.get(f"{stage.url}/v1/models/ok").json()["max_model_len"] == 8192


# --- what upstreams do to us -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BROKEN_BEFORE)
def test_what_fails_before_the_first_token_is_an_error(stage: Stage, mode: str) -> None:
    reply = chat(stage, mode, stream=True)
    assert (reply.status_code, reply.json()["error"]["code"]) == BROKEN_BEFORE[mode], reply.text
    assert "secret" not in reply.text


@pytest.mark.parametrize("mode", BROKEN_BEFORE)
def test_a_route_asks_another_model_then_but_not_where_the_call_is_wrong(stage: Stage, mode: str) -> None:
    reply = chat(stage, f"r-{mode}", stream=True)
    if mode == "400":
        assert reply.status_code == 400
        return
    assert said(reply.text) == SAID
    assert reply.headers["x-headrace-target"] == "ok"


@pytest.mark.parametrize("mode", BROKEN_OFF)
def test_what_is_broken_off_ends_with_an_error_after_all_that_was_told(stage: Stage, mode: str) -> None:
    reply = chat(stage, mode, stream=True)
    assert said(reply.text) == "Hello, w"
    assert events(reply.text)[-1]["error"]["code"] in ("upstream_failed", "upstream_timeout")
    assert 'finish_reason":"stop' not in reply.text
    assert chat(stage, mode).status_code == 500


def test_a_route_does_not_begin_another_answer_after_the_first_token(stage: Stage, upstream: Upstream) -> None:
    before = len(upstream.calls["ok"])
    reply = chat(stage, "r-cuts", stream=True)
    assert said(reply.text) == "Hello, w"
    assert "error" in events(reply.text)[-1]
    assert len(upstream.calls["ok"]) == before


def test_a_model_of_this_host_goes_on_with_what_is_broken_off(stage: Stage) -> None:
    reply = chat(stage, "goes-on", stream=True, max_tokens=30, seed=0, stream_options={"include_usage": True})
    assert reply.status_code == 400  # seed is a capability that it was not said to have
    reply = chat(stage, "goes-on", stream=True, max_tokens=30, stream_options={"include_usage": True})
    text = said(reply.text)
    assert text.startswith("Hello, w")
    assert len(text) > len("Hello, w")
    prompt = bytes(stage.player.submits[-1].prompt)
    assert len(prompt) > 4 * len("Hello, w")
    usage = events(reply.text)[-1]["usage"]
    assert usage["estimated"] is True
    assert usage["completion_tokens"] == 30


@pytest.mark.parametrize("mode", ["lies", "no-usage"])
def test_usage_that_cannot_be_is_estimated_and_says_so(stage: Stage, mode: str) -> None:
    usage = chat(stage, mode).json()["usage"]
    assert usage["estimated"] is True
    assert 0 < usage["prompt_tokens"] < 100
    assert 0 < usage["completion_tokens"] < 100


def test_what_a_model_elsewhere_has_no_words_for_is_refused_by_name(stage: Stage) -> None:
    for name, value in (("logit_bias", {"1": 1.0}), ("top_k", 3), ("return_token_ids", True)):
        error = chat(stage, "ok", **{name: value}).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    reply = httpx.post(f"{stage.url}/v1/completions", json={"model": "ok", "prompt": "Hi"})
    assert reply.json()["error"]["code"] == "unsupported_endpoint"


def test_what_only_the_upstream_can_do_goes_there(stage: Stage, upstream: Upstream) -> None:
    asked = {"reasoning_effort": "high"}
    assert chat(stage, "m", **asked).status_code == 400
    reply = chat(stage, "fit", **asked)
    assert reply.headers["x-headrace-target"] == "ok"
    assert upstream.calls["ok"][-1]["reasoning_effort"] == "high"
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    reply = chat(stage, "fit", messages=[{"role": "user", "content": picture}])
    assert reply.headers["x-headrace-target"] == "ok"
    assert upstream.calls["ok"][-1]["messages"][0]["content"] == picture
    assert chat(stage, "fit").headers["x-headrace-target"] == "m"


AT = {"type": "object", "properties": {"at": {"type": "string"}}}
LOOK: dict[str, Any] = {
    "type": "function", "function": {"name": "look", "description": "Looks.", "parameters": AT},
}  # fmt: skip


@pytest.mark.parametrize(("model", "second"), [("tools", '{"at": "sky"}'), ("a-tools", "{}")])
def test_tools_are_passed_on_and_calls_come_back_on_every_surface(
    stage: Stage, upstream: Upstream, model: str, second: str
) -> None:
    first = '{"at": "sky"}'
    choice = chat(stage, model, tools=[LOOK], tool_choice="required").json()["choices"][0]
    calls = choice["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [{"name": "look", "arguments": text} for text in (first, second)]
    assert len({call["id"] for call in calls}) == 2
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)

    deltas = [
        call
        for event in events(chat(stage, model, tools=[LOOK], stream=True).text)
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    for index, text in enumerate((first, second)):
        mine = [delta for delta in deltas if delta["index"] == index]
        assert "".join(delta["function"]["arguments"] for delta in mine) == text
        assert [delta["function"].get("name") for delta in mine] == ["look", *[None] * (len(mine) - 1)]
        assert mine[0]["id"]

    tool = {"name": "look", "description": "Looks.", "input_schema": AT}
    asked = [{"role": "user", "content": "Look at the sky."}]
    message = httpx.post(
        f"{stage.url}/v1/messages", timeout=60,
        json={"model": model, "max_tokens": 50, "messages": asked, "tools": [tool]},
    ).json()  # fmt: skip
    assert [block["input"] for block in message["content"]] == [json.loads(first), json.loads(second)]
    assert message["stop_reason"] == "tool_use"
    response = httpx.post(
        f"{stage.url}/v1/responses", timeout=60,
        json={"model": model, "input": "Look.", "tools": [{"type": "function", **LOOK["function"]}]},
    ).json()  # fmt: skip
    assert [item["arguments"] for item in response["output"]] == [first, second]

    # What was called goes back with what came of it, each under the id that was told.
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "blue"} for call in calls]
    messages = [*asked, choice["message"], *results]
    assert chat(stage, model, messages=messages, tools=[LOOK]).status_code == 200
    sent = upstream.calls[model][-1]
    ids = [call["id"] for call in calls]
    if model == "tools":
        assert sent["tools"] == [LOOK]
        assert [call["id"] for call in sent["messages"][1]["tool_calls"]] == ids
        assert [message["tool_call_id"] for message in sent["messages"][2:]] == ids
        assert upstream.calls[model][0]["tool_choice"] == "required"
    else:
        assert sent["tools"] == [tool]
        assert [(block["type"], block["id"]) for block in sent["messages"][1]["content"]] == [
            ("tool_use", id) for id in ids
        ]
        assert [block["tool_use_id"] for block in sent["messages"][2]["content"]] == ids
        assert upstream.calls[model][0]["tool_choice"] == {"type": "any"}


def test_a_call_with_tools_goes_to_who_can_call_and_a_stray_call_is_a_failure(stage: Stage) -> None:
    assert chat(stage, "calls", tools=[LOOK]).headers["x-headrace-target"] == "tools"
    assert chat(stage, "calls").headers["x-headrace-target"] == "ok"
    assert chat(stage, "calls", tools=[LOOK], tool_choice="none").headers["x-headrace-target"] == "ok"
    broken = chat(stage, "strays", tools=[LOOK])
    assert broken.json()["error"]["code"] == "upstream_failed"
    assert "destroy" not in broken.text
    unasked = chat(stage, "tools")
    assert (unasked.status_code, unasked.json()["error"]["code"]) == (502, "upstream_failed")


def test_an_answer_that_had_to_call_something_and_does_not_is_a_failure(stage: Stage) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        refused = chat(stage, "mute", tools=[LOOK], tool_choice=choice, stream=True)
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_failed")
        assert SAID[:5] not in refused.text
        other = chat(stage, "mute-or", tools=[LOOK], tool_choice=choice)
        assert other.headers["x-headrace-target"] == "tools"
        assert other.json()["choices"][0]["message"]["tool_calls"]
    assert chat(stage, "mute", tools=[LOOK]).json()["choices"][0]["message"]["content"] == SAID


def test_structured_output_goes_on_to_who_can(stage: Stage, upstream: Upstream) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    assert chat(stage, "a-tools", **asked).status_code == 200
    assert upstream.calls["a-tools"][-1]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert chat(stage, "ok", **asked).status_code == 200
    assert upstream.calls["ok"][-1]["response_format"] == asked["response_format"]
    for model, format in (("a-tools", "json_object"), ("anthropic", "json_object"), ("calls", "json_object")):
        reply = chat(stage, model, response_format={"type": format})
        assert (reply.status_code == 200) == (model == "calls"), reply.text
        assert model == "calls" or reply.json()["error"]["param"] == "response_format"
    assert chat(stage, "anthropic", response_format={"type": "text"}).status_code == 200
    responses = {"model": "a-tools", "input": "Hi", "text": {"format": {"type": "json_object"}}}
    assert httpx.post(f"{stage.url}/v1/responses", json=responses, timeout=60).status_code == 400


def test_what_is_not_passed_on_is_refused_where_nobody_can(stage: Stage, upstream: Upstream) -> None:
    asked = {"response_format": {"type": "json_object"}}
    assert chat(stage, "ok", **asked).status_code == 200
    assert upstream.calls["ok"][-1]["response_format"] == asked["response_format"]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    refused = chat(stage, "ok", tools=[tool])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    refused = chat(stage, "ok", guided_regex="[a-z]+")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_regex")


def test_a_model_of_this_host_is_a_fallback_like_any_other(stage: Stage) -> None:
    reply = chat(stage, "home", max_tokens=20)
    assert reply.headers["x-headrace-target"] == "m"
    assert reply.headers["x-headrace-route"] == "home; by=fallback; attempt=2"


def test_a_client_that_leaves_ends_the_call(stage: Stage, upstream: Upstream) -> None:
    before = upstream.gone["slow"]
    with httpx.stream(
        "POST", f"{stage.url}/v1/chat/completions", timeout=30,
        json={"model": "slow", "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
    ) as reply:  # fmt: skip
        next(reply.iter_lines())
    until(lambda: upstream.gone["slow"] > before, stage.logs)


# --- the circuit -----------------------------------------------------------------------------------------------------


def test_the_circuit_opens_and_closes_again(stage: Stage, upstream: Upstream) -> None:
    upstream.mood = "500"
    seen = [chat(stage, "moody").json()["error"]["code"] for _ in range(4)]
    assert seen[:2] == ["upstream_failed", "upstream_failed"]
    assert seen[-1] == "upstream_unavailable"
    calls = len(upstream.calls["moody"])
    refused = chat(stage, "moody")
    if refused.json()["error"]["code"] == "upstream_unavailable":
        assert int(refused.headers["retry-after"]) >= 1
        assert len(upstream.calls["moody"]) == calls
    upstream.mood = "ok"
    until(lambda: chat(stage, "moody").status_code == 200, stage.logs)


# --- the death of an ingress ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True])
def test_after_the_death_of_an_ingress_the_rest_is_lost_unless_a_model_here_is_the_same(
    upstream: Upstream, goes_on: bool
) -> None:
    same = 'continue_with = "m"\ntokenizer = "m"' if goes_on else ""
    with staged(2, tables=upstream.table("slow", model=same)) as stage:
        body = {
            "model": "slow", "stream": True, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        headers = {"connection": "close", "x-resumable": "true"}
        got = ""
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", f"{stage.url}/v1/chat/completions", timeout=30, json=body, headers=headers) as reply,
        ):
            for line in reply.iter_lines():
                got += line + "\n"
                if "w" in said(got):
                    for process in stage.processes:
                        process.kill()
        last = next(line[4:] for line in reversed(got.splitlines()) if line.startswith("id: "))
        stage.processes = [stage.start(0)]
        found: list[httpx.Response] = []

        def resumed() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                path = f"/v1/streams/{last.partition(':')[0]}"
                found[:] = [stage.visits.get(path, headers={"last-event-id": last})]
            return bool(found) and found[0].status_code == 200

        until(resumed, stage.logs)
        whole, told = said(got + found[0].text), len(said(got))
        if not goes_on:
            assert events(found[0].text)[-1]["error"]["code"] == "upstream_lost", stage.logs()
            assert SAID.startswith(whole)
            return
        last_event = events(found[0].text)[-1]
        assert "error" not in last_event, stage.logs()
        assert found[0].text.endswith("data: [DONE]\n\n")
        # What the upstream had said, of which the client may have seen less, and then what the model here says.
        rests = [whole.removeprefix(SAID[:cut]) for cut in range(told, len(SAID)) if whole.startswith(SAID[:cut])]
        assert any(
            len(rest) > 20 and answer(seed, 60).startswith(rest.rstrip("\ufffd")) for rest in rests for seed in range(8)
        ), whole
        assert last_event["usage"]["completion_tokens"] == 60
        assert last_event["usage"]["estimated"] is True
