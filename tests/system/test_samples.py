"""Several answers for one prompt on a real stack: the prompt is computed once, the account is that of all samples, the
best is the best, beams are those of transformers, and a death in the middle changes nothing."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from minilm import cross_encoder
from stack import SMOLLM2, Stack, running, until

pytestmark = [pytest.mark.system, pytest.mark.model]

BEAMS = json.loads((Path(__file__).parents[1] / "workers" / "reference" / "smollm2_beams.json").read_text())["cases"]
PAGE = 16
PROMPT = [(7 * at) % 9000 + 20 for at in range(10 * PAGE + 5)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    judge = cross_encoder(tmp_path_factory.mktemp("judge"))
    with running(f'{SMOLLM2}[[model]]\nname = "judge"\nsource = "path:{judge}"\n') as stack:
        until(lambda: stack.replicas_ready() == 2, 60, "both models are ready")
        yield stack


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=240) as client:
        yield client


def calls(stack: Stack) -> dict[str, dict[str, Any]]:
    """The ledger's lines by call."""
    report = json.loads(stack.headrace("usage", "--by", "call", "--json").stdout)
    return {row["group"]: row for row in report["rows"]}


def in_the_ledger(stack: Stack, response: str) -> dict[str, Any]:
    number = response.rpartition("-")[2]
    until(lambda: number in calls(stack), 20, "the call is in the ledger")
    return calls(stack)[number]


def test_the_prompt_of_several_choices_is_computed_once(client: openai.OpenAI, stack: Stack) -> None:
    asked = {"include_timing": True, "return_token_ids": True, "ignore_eos": True}
    reply = client.completions.create(model="smollm2", prompt=PROMPT, n=4, seed=7, max_tokens=6, extra_body=asked)
    computed = [each["computed_tokens"] for each in reply.to_dict()["headrace"]["choices"]]  # type: ignore[index]
    assert sorted(computed) == [len(PROMPT) % PAGE] * 3 + [len(PROMPT)]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(PROMPT), 24)
    row = in_the_ledger(stack, reply.id)
    assert (row["requests"], row["prompt_tokens"], row["generated_tokens"]) == (4, len(PROMPT), 24)


def test_the_best_of_is_the_best_of_its_samples(client: openai.OpenAI, stack: Stack) -> None:
    more = {"ignore_eos": True, "return_token_ids": True}
    asked: dict[str, Any] = {"model": "smollm2", "prompt": "A river is", "seed": 11, "max_tokens": 8, "logprobs": 0}
    every = client.completions.create(**asked, n=5, extra_body=more)
    means = [math.fsum(choice.logprobs.token_logprobs) / 8 for choice in every.choices]  # type: ignore[union-attr,arg-type]
    best = client.completions.create(**asked, n=2, best_of=5, extra_body={**more, "max_total_tokens": 100})
    order = sorted(range(5), key=lambda at: -means[at])[:2]
    assert [choice.text for choice in best.choices] == [every.choices[at].text for at in order]
    assert best.usage is not None
    assert best.usage.completion_tokens == 40
    row = in_the_ledger(stack, best.id)
    assert (row["requests"], row["generated_tokens"], row["max_total_tokens"]) == (5, 40, 100)


def test_a_served_model_judges(client: openai.OpenAI, stack: Stack) -> None:
    before = calls(stack)
    reply = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "What is the capital of France?"}], seed=3,
        max_tokens=12, extra_body={"best_of": 3, "best_of_scorer": "smollm2"},
    )  # fmt: skip
    assert reply.choices[0].message.content
    assert in_the_ledger(stack, reply.id)["requests"] == 3
    until(lambda: len(calls(stack)) == len(before) + 1 + 3, 20, "what judging took is in the ledger too")


def test_a_served_encoder_ranks(client: openai.OpenAI, stack: Stack) -> None:
    asked: dict[str, Any] = {
        "model": "smollm2", "prompt": "A river is", "seed": 21, "max_tokens": 8, "temperature": 1.0
    }  # fmt: skip
    texts = [choice.text for choice in client.completions.create(**asked, n=4).choices]
    ranked = httpx.post(
        f"{stack.url}/v1/rerank", timeout=60, json={"model": "judge", "query": "A river is", "documents": texts}
    ).json()["results"]
    best = client.completions.create(**asked, n=2, best_of=4, extra_body={"best_of_scorer": "judge"})
    assert [choice.text for choice in best.choices] == [texts[result["index"]] for result in ranked[:2]]
    assert len(set(texts)) == 4


def test_all_samples_together_stay_within_their_budget(client: openai.OpenAI, stack: Stack) -> None:
    stream = client.completions.create(
        model="smollm2", prompt="Once upon a time", n=4, seed=1, max_tokens=64, stream=True,
        stream_options={"include_usage": True},
        extra_body={"max_total_tokens": 50, "ignore_eos": True, "return_token_ids": True},
    )  # fmt: skip
    tokens, reasons, usage, response = [0] * 4, [], None, ""
    for chunk in stream:
        response, usage = chunk.id, chunk.usage or usage
        for choice in chunk.choices:
            tokens[choice.index] += len(choice.to_dict().get("token_ids") or [])  # type: ignore[arg-type]
            reasons += [choice.to_dict()["stop_reason"]] if choice.finish_reason else []
    assert sum(tokens) == 50
    assert min(tokens) > 0
    assert reasons == ["max_total_tokens"] * 4
    assert usage is not None
    assert usage.completion_tokens == 50
    row = in_the_ledger(stack, response)
    assert (row["requests"], row["generated_tokens"], row["max_total_tokens"]) == (4, 50, 50)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"], marks=[pytest.mark.slow] * (at > 1)) for at, case in enumerate(BEAMS)]
)
def test_beams_are_those_of_transformers(client: openai.OpenAI, stack: Stack, case: dict[str, Any]) -> None:
    asked = case["asked"]
    names = {"length_penalty", "early_stopping"} & set(asked)
    more = {"use_beam_search": True, "beam_width": asked["num_beams"], "return_token_ids": True}
    reply = client.completions.create(
        model="smollm2", prompt=case["ids"], n=asked["num_return_sequences"], max_tokens=asked["max_new_tokens"],
        extra_body={**more, **{name: asked[name] for name in names}},
    )  # fmt: skip
    assert [choice.to_dict()["token_ids"] for choice in reply.choices] == case["tokens"]
    assert reply.usage is not None
    row = in_the_ledger(stack, reply.id)
    assert (row["requests"], row["generated_tokens"]) == (1, reply.usage.completion_tokens)


def counted(stack: Stack, name: str) -> int:
    """A counter of the model's scheduler."""
    text = httpx.get(f"{stack.url}/metrics", timeout=30).text
    found = re.search(rf'^headrace_{name}_total{{[^}}]*model="smollm2"[^}}]*}} (\S+)', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def test_a_beam_computes_no_more_than_a_page_for_a_token(client: openai.OpenAI, stack: Stack) -> None:
    names = ("prefix_lookup_tokens", "prefix_hit_tokens")
    looked, hit = (counted(stack, name) for name in names)
    prompt = PROMPT[::-1]
    reply = client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=6,
        extra_body={"use_beam_search": True, "beam_width": 3, "ignore_eos": True},
    )  # fmt: skip
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 1 + 5 * 3
    known = len(prompt) + sum(3 * (len(prompt) + drawn) for drawn in range(1, 6))
    until(lambda: counted(stack, names[0]) - looked >= known, 20, "everything is counted")
    assert counted(stack, names[0]) - looked == known
    computed = known - (counted(stack, names[1]) - hit)
    assert len(prompt) < computed <= len(prompt) + 5 * 3 * PAGE


def test_beams_write_what_a_schema_allows(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
              "additionalProperties": False}  # fmt: skip
    reply = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "What is the capital of France? As JSON."}],
        max_tokens=40, response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
        extra_body={"use_beam_search": True, "beam_width": 3},
    )  # fmt: skip
    assert json.loads(reply.choices[0].message.content or "")["city"] in ("Paris", "Rome")


def search(stack: Stack, case: dict[str, Any]) -> list[list[int]]:
    asked = case["asked"]
    reply = httpx.post(
        f"{stack.url}/v1/completions", timeout=240,
        json={"model": "smollm2", "prompt": case["ids"], "n": asked["num_return_sequences"],
              "max_tokens": asked["max_new_tokens"], "use_beam_search": True, "return_token_ids": True},
    )  # fmt: skip
    assert reply.status_code == 200, reply.text
    return [choice["token_ids"] for choice in reply.json()["choices"]]


@pytest.mark.parametrize("victim", ["worker@smollm2.0.0", "scheduler@smollm2"])
def test_a_kill_in_the_middle_of_four_choices_and_of_a_search_changes_nothing(
    client: openai.OpenAI, stack: Stack, victim: str
) -> None:
    def ask(read: threading.Event | None = None) -> list[list[int]]:
        stream = client.completions.create(
            model="smollm2", prompt="In the year 2050,", n=4, seed=5, max_tokens=48, stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )  # fmt: skip
        found: list[list[int]] = [[], [], [], []]
        ends = 0
        for chunk in stream:
            for choice in chunk.choices:
                found[choice.index] += choice.to_dict().get("token_ids") or []  # type: ignore[arg-type]
                ends += choice.finish_reason is not None
            if read is not None and min(map(len, found)) >= 5:
                read.set()
        assert ends == 4
        return found

    until(lambda: stack.replicas_ready() == 2, 60, "a replica")
    undisturbed = ask()
    begun = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, begun), pool.submit(search, stack, BEAMS[0])]
        assert begun.wait(60)
        stack.kill(victim)
        assert not any(answer.done() for answer in answers), "both were under way"
    assert answers[0].result() == undisturbed
    assert answers[1].result() == BEAMS[0]["tokens"]
    assert {len(each) for each in undisturbed} == {48}


def test_choices_of_a_stream_that_echo_score_their_prompt_once(client: openai.OpenAI) -> None:
    prompt = PROMPT[5:100]
    stream = client.completions.create(
        model="smollm2", prompt=prompt, n=3, seed=2, max_tokens=3, stream=True, echo=True, logprobs=1,
        extra_body={"include_timing": True, "ignore_eos": True},
    )  # fmt: skip
    scored: dict[int, list[float | None]] = {}
    computed: list[int] = []
    for chunk in stream:
        for choice in chunk.choices:
            if choice.logprobs is not None:
                scored.setdefault(choice.index, []).extend(choice.logprobs.token_logprobs or [])
        timing: Any = chunk.to_dict().get("headrace")
        computed += [timing["computed_tokens"]] if timing else []
    assert sorted(computed) == [len(prompt) % PAGE] * 2 + [len(prompt)]
    assert {len(values) for values in scored.values()} == {len(prompt) + 3}
    assert scored[0][: len(prompt)] == scored[1][: len(prompt)] == scored[2][: len(prompt)]
    assert scored[0][0] is None
    assert None not in scored[0][1:]
