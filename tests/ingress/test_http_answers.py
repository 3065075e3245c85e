"""Answers over real HTTP from a real ingress process, read by the official package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_stage import CONTEXT, TEXT, Stage, answer, staged, until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key="k", max_retries=0, timeout=60) as client:
        yield client


def ask(text: str = "hi") -> Any:
    return [{"role": "user", "content": text}]


def test_a_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ask(), max_tokens=9, seed=0)
    assert reply.choices[0].message.content == answer(0, 9)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 9
    assert reply.id.startswith("chatcmpl-")
    assert reply.system_fingerprint is not None


def test_a_chat_goes_to_its_end_where_nothing_is_asked(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ask(), seed=1)
    assert reply.choices[0].message.content == TEXT[1:]
    assert reply.choices[0].finish_reason == "stop"


def test_an_answer_can_be_given_back(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ask(), max_tokens=9, seed=0)
    again = client.chat.completions.create(
        model="m",
        messages=[*ask(), reply.choices[0].message, *ask("go on")],
        max_tokens=3,
        seed=0,  # type: ignore[list-item]
    )
    assert again.choices[0].message.content == answer(0, 3)


def test_a_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m", messages=ask(), max_tokens=25, seed=2, stream=True, stream_options={"include_usage": True},
            extra_body={"priority": 1},
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer(2, 25)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 25
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_n_choices_draw_with_seeds_of_their_own(client: openai.OpenAI, streaming: bool) -> None:
    texts = ["", "", ""]
    if streaming:
        for chunk in client.chat.completions.create(
            model="m", messages=ask(), n=3, seed=5, max_tokens=6, stream=True, extra_body={"priority": 1}
        ):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        reply = client.chat.completions.create(model="m", messages=ask(), n=3, seed=5, max_tokens=6)
        texts = [choice.message.content or "" for choice in reply.choices]
    assert texts == [answer(seed, 6) for seed in (5, 6, 7)]


def test_stop_strings_and_their_inclusion(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="m", messages=ask(), seed=0, stop=["😀", "lo,"])
    assert reply.choices[0].message.content == "Hel"
    assert reply.choices[0].finish_reason == "stop"
    reply = client.chat.completions.create(
        model="m", messages=ask(), seed=0, stop="lo,", extra_body={"include_stop_str_in_output": True}
    )
    assert reply.choices[0].message.content == "Hello,"


def test_chat_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="m", messages=ask(), seed=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["H", "e", "l"]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["I", "H"]
    assert logprobs.content[0].bytes == [72]


@pytest.mark.parametrize(
    ("prompt", "echoed"),
    [
        ("hi", ["hi"]),
        (["hi", "yo"], ["hi", "yo"]),
        ([104, 105], ["hi"]),
        ([[104], [105]], ["h", "i"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_prompts_of_every_kind_echoed(client: openai.OpenAI, prompt: Any, echoed: list[str], streaming: bool) -> None:
    texts = [""] * len(echoed)
    if streaming:
        for chunk in client.completions.create(model="m", prompt=prompt, echo=True, max_tokens=4, seed=0, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    else:
        reply = client.completions.create(model="m", prompt=prompt, echo=True, max_tokens=4, seed=0)
        texts = [choice.text for choice in reply.choices]
    assert texts == [text + answer(0, 4) for text in echoed]


def test_completion_logprobs_with_echo_score_the_prompt(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="m", prompt="hey", echo=True, logprobs=1, max_tokens=0)
    logprobs = reply.choices[0].logprobs
    assert reply.choices[0].text == "hey"
    assert logprobs is not None
    assert logprobs.tokens == ["he", "y"]
    assert logprobs.token_logprobs == [None, -1.5]
    assert logprobs.text_offset == [0, 2]


def test_sixteen_tokens_are_the_default_of_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="m", prompt="x", seed=0)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 16


def test_token_ids_are_returned(stage: Stage) -> None:
    reply = stage.visits.post(
        "/v1/completions",
        json={"model": "m", "prompt": "hi", "max_tokens": 3, "seed": 0, "return_token_ids": True},
    ).json()
    assert reply["choices"][0]["prompt_token_ids"] == [104, 105]
    assert reply["choices"][0]["token_ids"] == list(b"Hel")


def test_everything_that_was_asked_for_reaches_the_scheduler(stage: Stage) -> None:
    body = {
        "model": "m", "prompt": "hi", "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": -1, "min_tokens": 2,
        "logit_bias": {"5": 1.5}, "logprobs": 3, "stop_token_ids": [9], "ignore_eos": True, "priority": -4,
        "prompt_logprobs": 2,
    }  # fmt: skip
    assert stage.visits.post("/v1/completions", json=body).status_code == 200
    submit = stage.player.submits[-1]
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 7, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.1, 0.2, 0.3)
    assert (sampling.seed, sampling.min_tokens, sampling.logprobs) == (2**64 - 1, 2, 3)
    assert sampling.logit_bias == ((5, 1.5),)
    assert (submit.priority, submit.prompt_logprobs, submit.max_tokens) == (-4, 2, 3)
    assert submit.stop_token_ids == (9).to_bytes(4, "little")


@pytest.mark.parametrize("tier", ["flex", "default"])
def test_a_call_may_be_behind_all_that_are_not(stage: Stage, tier: str) -> None:
    body = {"model": "m", "messages": ask(), "max_tokens": 3, "seed": 0, "service_tier": tier}
    reply = stage.visits.post("/v1/chat/completions", json=body)
    assert reply.json()["service_tier"] == tier
    assert stage.player.submits[-1].batch == (tier == "flex")
    response = {"model": "m", "input": "hi", "max_output_tokens": 3, "service_tier": tier}
    assert stage.visits.post("/v1/responses", json=response).json()["service_tier"] == tier
    assert stage.player.submits[-1].batch == (tier == "flex")


def test_tokenize_and_detokenize(stage: Stage) -> None:
    http = stage.visits
    reply = http.post("/tokenize", json={"model": "m", "prompt": "hello é", "return_token_strs": True}).json()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == CONTEXT
    text = http.post("/detokenize", json={"model": "m", "tokens": reply["tokens"]}).json()
    assert text == {"prompt": "hello é"}
    chat = http.post("/tokenize", json={"model": "m", "messages": ask()}).json()
    assert http.post("/detokenize", json={"model": "m", "tokens": chat["tokens"]}).json()["prompt"] == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "headrace"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("zz")


def test_readiness_follows_the_replicas(stage: Stage) -> None:
    assert stage.visits.get("/health").json() == {"status": "alive"}
    stage.player.announce(0)
    until(lambda: stage.visits.get("/ready").status_code == 503)
    reply = stage.visits.get("/ready")
    assert "m (0 of 1 replicas)" in reply.json()["error"]["message"]
    assert reply.headers["retry-after"]
    assert stage.visits.get("/health").status_code == 200
    stage.player.announce(1)
    until(lambda: stage.visits.get("/ready").status_code == 200)


def test_metrics_without_a_metrics_process_say_so(stage: Stage) -> None:
    reply = stage.visits.get("/metrics")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "metrics_unavailable"


def test_the_openapi_document_is_served(stage: Stage) -> None:
    assert "/v1/chat/completions" in stage.visits.get("/openapi.json").json()["paths"]


@pytest.mark.asyncio
async def test_many_at_once_keep_apart(stage: Stage) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="k", max_retries=0, timeout=60) as client:

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(
                model="m", messages=ask(), max_tokens=30, seed=seed, stream=True, extra_body={"priority": 1}
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        texts = await asyncio.gather(*map(one, range(40)))
    assert texts == [answer(seed, 30) for seed in range(40)]
