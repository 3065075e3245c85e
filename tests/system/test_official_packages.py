"""The official packages of OpenAI and Anthropic against a whole stack: what people's programs already speak."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from stack import SMOLLM2, Stack, running, until

from headrace_client import Client

pytestmark = [pytest.mark.system, pytest.mark.model]

ASK: list[Any] = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(SMOLLM2, ingresses=2) as stack:
        yield stack


@pytest.fixture
def gpt(stack: Stack) -> openai.OpenAI:
    headers = {"connection": "close"}  # each request may land at another ingress
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="k", max_retries=0, timeout=120, default_headers=headers)


@pytest.fixture
def claude(stack: Stack) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stack.url, api_key="k", max_retries=0, timeout=120)


def test_all_surfaces_and_both_doors_say_the_same(
    stack: Stack, gpt: openai.OpenAI, claude: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = gpt.chat.completions.create(model="smollm2", messages=ASK, temperature=0, max_tokens=30)
    said = chat.choices[0].message.content
    assert said
    response = gpt.responses.create(model="smollm2", input="Name three colours.", temperature=0, max_output_tokens=30)
    assert response.output_text == said
    greedy = {"temperature": 0}
    message = claude.messages.create(model="smollm2", max_tokens=30, messages=ASK, extra_body=greedy)
    assert message.content[0].text == said  # type: ignore[union-attr]
    with claude.messages.stream(model="smollm2", max_tokens=30, messages=ASK, extra_body=greedy) as stream:
        assert "".join(stream.text_stream) == said
    with gpt.responses.stream(model="smollm2", input="Name three colours.", temperature=0) as events:
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta").startswith(said)
    assert chat.usage is not None
    counted = claude.messages.count_tokens(model="smollm2", messages=ASK).input_tokens
    assert counted == chat.usage.prompt_tokens == response.usage.input_tokens  # type: ignore[union-attr]
    monkeypatch.setenv("HEADRACE_RUN", str(stack.run))
    with Client() as client:
        assert client.respond("Name three colours.", temperature=0, max_output_tokens=30).text == said
        assert client.message("Name three colours.", temperature=0, max_tokens=30).text == said


def test_a_conversation_is_gone_on_with(gpt: openai.OpenAI) -> None:
    first = gpt.responses.create(model="smollm2", input="My name is Ada.", temperature=0, max_output_tokens=30)
    second = gpt.responses.create(
        model="smollm2", input="What is my name?", previous_response_id=first.id, temperature=0, max_output_tokens=30
    )
    spelled: list[Any] = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ]
    chat = gpt.chat.completions.create(model="smollm2", messages=spelled, temperature=0, max_tokens=30)
    assert chat.choices[0].message.content == second.output_text


def test_a_background_response_is_cancelled_and_gives_its_slot_back(stack: Stack, gpt: openai.OpenAI) -> None:
    made = gpt.responses.create(
        model="smollm2", input="Tell me a story.", background=True, extra_body={"ignore_eos": True}
    )
    assert made.status == "queued"
    events = iter(gpt.responses.retrieve(made.id, stream=True, starting_after=0))
    assert any(event.type == "response.output_text.delta" for event in events)
    cancelled = gpt.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert gpt.responses.retrieve(made.id) == cancelled
    until(lambda: stack.status()["models"][0]["running"] == 0, 20, "the cancelled request is aborted")
    gpt.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(made.id)


def test_errors_are_the_packages_own(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError):
        gpt.responses.create(model="nobody", input="hi")
    with pytest.raises(openai.BadRequestError) as unknown:
        gpt.responses.create(model="smollm2", input="hi", extra_body={"nonsense": 1})
    assert (unknown.value.code, unknown.value.param) == ("unknown_parameter", "nonsense")
    with pytest.raises(openai.BadRequestError):
        gpt.responses.create(model="smollm2", input="hi", max_output_tokens=10**6)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=5, messages=ASK)
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="smollm2", max_tokens=5, messages=ASK, tools=[{"name": "f", "input_schema": {}}])  # type: ignore[typeddict-item]


@pytest.mark.slow
def test_a_stream_goes_on_after_its_ingress_was_killed(stack: Stack, gpt: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "smollm2", "input": "Tell me a story.", "temperature": 0, "max_output_tokens": 120}
    expected = gpt.responses.create(**ask, extra_body={"ignore_eos": True}).output_text
    events = []
    for event in gpt.responses.create(**ask, stream=True, background=True, extra_body={"ignore_eos": True}):
        events.append(event)
        if len(events) == 10:
            break
    name = events[0].response.id
    (kept,) = (stack.run / "streams").glob(f"ingress@*/{name}")
    stack.kill(kept.parent.name.rpartition(".")[0], signal.SIGKILL)
    last = events[-1].sequence_number
    events += list(again(lambda: gpt.responses.retrieve(name, stream=True, starting_after=last)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == expected
    assert gpt.responses.retrieve(name).output_text == expected


def again(ask: Callable[[], Any]) -> Any:
    """What comes as soon as somebody listens again."""
    answers: list[Any] = []

    def asked() -> bool:
        try:
            answers.append(ask())
        except openai.APIConnectionError:
            return False
        return True

    until(asked, 30, "an ingress answers")
    return answers[0]
