"""Responses over HTTP, with the official package: streamed, kept, found at any ingress, gone on with, cancelled."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from api_stage import Stage, answer, staged, until

pytestmark = pytest.mark.system

SLOW = {"seed": 0, "priority": 20}


@pytest.fixture(scope="module")
def two() -> Iterator[Stage]:
    with staged(2, settings="resume_grace_s = 600.0") as stage:
        yield stage


@pytest.fixture
def stage(two: Stage) -> Iterator[Stage]:
    """Two ingresses, alive whatever the test before has done."""
    for index, process in enumerate(two.processes):
        if process.poll() is not None:
            two.processes[index] = two.start(index)
    two.wait()
    yield two
    assert "Traceback" not in two.logs()


def client(stage: Stage, key: str = "k") -> openai.OpenAI:
    # A connection for each request, so that each may land at another ingress.
    headers = {"connection": "close"}
    return openai.OpenAI(base_url=f"{stage.url}/v1", api_key=key, max_retries=0, timeout=60, default_headers=headers)


def ask(stage: Stage, text: Any = "hi", tokens: int = 20, key: str = "k", **more: Any) -> Any:
    extra = {"seed": 0, **more.pop("extra", {})}
    return client(stage, key).responses.create(
        model="m", input=text, max_output_tokens=tokens, extra_body=extra, **more
    )


def test_a_whole_response_and_its_account(stage: Stage) -> None:
    response = ask(stage, instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == answer(0, 20)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.instructions, response.metadata, response.store) == ("Be brief.", {"a": "b"}, True)
    assert response.usage.total_tokens == response.usage.input_tokens + 20
    assert ask(stage, tokens=2000).status == "completed"


def test_a_stream_says_what_the_whole_says(stage: Stage) -> None:
    events = list(ask(stage, stream=True, extra={"priority": 2}))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert text == last.output_text == answer(0, 20)
    done = {event.type: event for event in events}
    assert done["response.output_text.done"].text == text
    assert done["response.output_item.done"].item == last.output[0]
    whole = ask(stage, store=False)
    assert (whole.output_text, whole.status, whole.usage) == (last.output_text, last.status, last.usage)


def test_log_probabilities_are_of_the_answers_bytes(stage: Stage) -> None:
    more: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    for response in (ask(stage, **more), list(ask(stage, stream=True, **more))[-1].response):
        tokens = response.output[0].content[0].logprobs
        assert b"".join(bytes(token.bytes) for token in tokens).decode() == response.output_text
        assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_a_kept_response_is_the_same_at_every_ingress_for_its_owner_only(stage: Stage) -> None:
    made = ask(stage)
    for _ in range(6):
        assert client(stage).responses.retrieve(made.id) == made
    with pytest.raises(openai.NotFoundError):
        client(stage, "other").responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client(stage, "other").responses.delete(made.id)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(stage, key="other", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"


def test_what_is_not_stored_is_not_found(stage: Stage) -> None:
    assert ask(stage, store=False).store is False
    with pytest.raises(openai.NotFoundError):
        client(stage).responses.retrieve(ask(stage, store=False).id)


def test_a_deleted_response_is_gone_everywhere(stage: Stage) -> None:
    made = ask(stage)
    client(stage).responses.delete(made.id)
    for _ in range(4):
        with pytest.raises(openai.NotFoundError):
            client(stage).responses.retrieve(made.id)


def test_input_items_are_listed_in_pages(stage: Stage) -> None:
    items = [{"role": "user", "content": f"number {number}"} for number in range(5)]
    made = ask(stage, items)
    listed = list(client(stage).responses.input_items.list(made.id, limit=2, order="asc"))
    assert [item.content[0].text for item in listed] == [f"number {number}" for number in range(5)]
    newest = client(stage).responses.input_items.list(made.id, limit=1)
    assert newest.data[0].content[0].text == "number 4"
    assert newest.has_more


def test_a_conversation_goes_on_and_outlives_what_it_came_from(stage: Stage) -> None:
    first = ask(stage, "one", instructions="System.")
    second = ask(stage, "two", previous_response_id=first.id)
    client(stage).responses.delete(first.id)
    third = ask(stage, "three", previous_response_id=second.id)
    spelled = [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "two"}, {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "three"},
    ]  # fmt: skip
    assert third.usage.input_tokens == ask(stage, spelled).usage.input_tokens
    assert [item.content[0].text for item in client(stage).responses.input_items.list(third.id)] == ["three"]


def test_function_calls_of_the_past_reach_the_template(stage: Stage) -> None:
    items = [
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny today"},
    ]
    assert ask(stage, items).usage.input_tokens > ask(stage, "weather?").usage.input_tokens + len("sunny today")


def test_in_the_background_it_goes_on_with_nobody_there_and_can_be_followed(stage: Stage) -> None:
    made = ask(stage, tokens=100, background=True, extra={"priority": 5})
    assert made.status == "queued"
    events = list(client(stage).responses.retrieve(made.id, stream=True, starting_after=3))
    assert [event.sequence_number for event in events] == list(range(4, 4 + len(events)))
    assert events[-1].response.output_text == answer(0, 100)
    assert client(stage).responses.retrieve(made.id) == events[-1].response


def test_a_background_stream_that_is_left_goes_on(stage: Stage) -> None:
    stream = ask(stage, tokens=60, background=True, stream=True, extra={"priority": 10})
    made = next(iter(stream)).response
    stream.close()
    until(lambda: client(stage).responses.retrieve(made.id).status == "incomplete")
    assert client(stage).responses.retrieve(made.id).output_text == answer(0, 60)


def test_a_cancelled_response_keeps_what_was_said(stage: Stage) -> None:
    made = ask(stage, tokens=2000, background=True, extra=SLOW)
    stream = iter(client(stage).responses.retrieve(made.id, stream=True))
    assert any(event.type == "response.output_text.delta" for event in stream)
    aborted = len(stage.player.aborts)
    cancelled = client(stage).responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.output_text
    assert answer(0, 2000).startswith(cancelled.output_text)
    rest = list(stream)
    assert rest[-1].response == cancelled
    assert client(stage).responses.retrieve(made.id) == cancelled
    until(lambda: len(stage.player.aborts) > aborted)
    assert client(stage).responses.cancel(made.id) == cancelled  # once more changes nothing
    with pytest.raises(openai.BadRequestError) as refused:
        ask(stage, previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_complete"


def test_only_what_is_in_the_background_can_be_cancelled(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError):
        client(stage).responses.cancel(ask(stage).id)


@pytest.mark.parametrize("background", [True, False])
def test_a_stream_goes_on_after_its_ingress_was_killed(stage: Stage, background: bool) -> None:
    stream = ask(stage, tokens=80, background=background, stream=True, extra=SLOW)
    events = []
    for event in stream:
        events.append(event)
        if len(events) == 9:
            break
    made = events[0].response
    kill_holder(stage, made.id)
    last = events[-1].sequence_number
    events += list(again(lambda: client(stage).responses.retrieve(made.id, stream=True, starting_after=last)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == answer(0, 80)
    assert client(stage).responses.retrieve(made.id) == events[-1].response
    assert ask(stage, "more", previous_response_id=made.id).status == "incomplete"


def test_a_kept_response_outlives_its_ingress(stage: Stage) -> None:
    made = ask(stage)
    kill_holder(stage, made.id)
    assert again(lambda: client(stage).responses.retrieve(made.id)) == made
    assert list(client(stage).responses.input_items.list(made.id))


def test_the_same_key_is_answered_once(stage: Stage) -> None:
    again = [ask(stage, extra_headers={"Idempotency-Key": "once"}) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    queued = [ask(stage, background=True, extra_headers={"Idempotency-Key": "bg"}).id for _ in range(3)]
    assert len(set(queued)) == 1


def test_a_response_that_nobody_waits_for_fails_and_says_so(stage: Stage) -> None:
    stream = ask(stage, tokens=2000, stream=True, extra=SLOW)
    made = next(iter(stream)).response
    stream.close()
    until(lambda: client(stage).responses.retrieve(made.id).status == "failed")
    assert client(stage).responses.retrieve(made.id).error is not None


def test_stored_responses_are_forgotten_in_time() -> None:
    with staged(settings="resume_grace_s = 1.0\nresponse_ttl_s = 2.0") as stage:
        made = ask(stage)
        unstored = httpx.post(
            f"{stage.url}/v1/responses", json={"model": "m", "input": "x", "stream": True, "store": False}
        ).headers["x-request-id"]
        made_slowly = ask(stage, tokens=60, background=True, extra={"priority": 50})
        gone = lambda name: httpx.get(f"{stage.url}/v1/responses/{name}").status_code == 404  # noqa: E731
        until(lambda: gone(unstored))
        until(lambda: not_found(stage, made.id))
        # One in the background outlives the grace time, in which nobody has listened to it.
        done = lambda: client(stage).responses.retrieve(made_slowly.id).status in ("incomplete", "failed")  # noqa: E731
        until(done)
        assert client(stage).responses.retrieve(made_slowly.id).output_text == answer(0, 60)


def not_found(stage: Stage, response: str) -> bool:
    try:
        client(stage).responses.retrieve(response)
    except openai.NotFoundError:
        return True
    return False


def kill_holder(stage: Stage, response: str) -> None:
    """Kill the ingress that has a response."""
    (found,) = (stage.run / "streams").glob(f"ingress@*/{response}")
    home = stage.processes[int(found.parent.name.split("@")[1].split(".")[0])]
    home.send_signal(signal.SIGKILL)
    home.wait()


def again(ask: Callable[[], Any]) -> Any:
    """What comes when somebody listens: the other ingress may still be on its way up from the test before."""
    answers: list[Any] = []

    def asked() -> bool:
        try:
            answers.append(ask())
        except openai.APIConnectionError:
            return False
        return True

    until(asked)
    return answers[0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x", "background": True, "store": False}, "store"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "tools": [{"type": "function", "name": "f"}]}, "tools"),  # the template knows none
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            {
                "input": "x",
                "text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {"format": "uri"}}}},
            },
            "text.format.schema.not",
        ),
        ({"input": "x", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"input": "x", "include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"input": "x", "top_logprobs": 2}, "top_logprobs"),
        ({"input": "x", "stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": "x", "shout": True}]}, "input[0].shout"),
        ({"input": [{"type": "message", "role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": "x", "nonsense": 1}, "nonsense"),
        ({"input": "x", "previous_response_id": "resp_0000000000000000"}, "previous_response_id"),
    ],
)
def test_what_is_not_served_is_refused_by_name(stage: Stage, body: dict[str, Any], param: str) -> None:
    reply = httpx.post(f"{stage.url}/v1/responses", json={"model": "m", **body})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "resp_0000000000000000", 404),
        ("GET", "chatcmpl-0000000000000000", 404),
        ("GET", "x?shout=1", 400),
        ("GET", "x?include=a", 400),
        ("GET", "x?starting_after=1", 400),
        ("GET", "x?stream=true&starting_after=-1", 400),
        ("GET", "x?stream=yes", 400),
        ("GET", "x?stream=true", 404),
        ("GET", "x/input_items?limit=0", 400),
        ("GET", "x/input_items?order=up", 400),
        ("DELETE", "x?stream=true", 400),
        ("POST", "x/cancel", 404),
        ("PUT", "x", 405),
    ],
)
def test_wrong_references(stage: Stage, method: str, path: str, status: int) -> None:
    reply = httpx.request(method, f"{stage.url}/v1/responses/{path}")
    assert reply.status_code == status, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_an_error_in_a_stream_is_an_event_that_the_package_raises(stage: Stage) -> None:
    stream = ask(stage, tokens=2000, stream=True, extra={**SLOW, "seed": 0})
    made = next(iter(stream)).response
    events = iter(client(stage).responses.retrieve(made.id, stream=True))
    next(events)
    client(stage).responses.delete(made.id)
    with pytest.raises(openai.APIError) as told:
        list(events)
    assert "abandoned" in json.dumps(told.value.body)
