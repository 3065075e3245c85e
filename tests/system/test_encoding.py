"""Encoders on a real stack: OpenAI's client, reranking, the ZeroMQ client, and processes that die in the middle."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import openai
import pytest
import torch
import transformers
from minilm import Reference, cross_encoder
from stack import Stack, running, until

from bus.catalogue import locate
from headrace_client import Client

pytestmark = [pytest.mark.system, pytest.mark.model]

TEXTS = ["The cat sat on the mat.", "A feline rested on a rug.", "Quarterly revenue rose by 8 %.", "x"]
CONFIG = """
[[model]]
name = "minilm"
source = "catalog:all-minilm-l6-v2"
queue_requests = 40

[[model]]
name = "judge"
source = "path:{judge}"
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross_encoder(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def stack(judge: Path) -> Iterator[Stack]:
    with running(CONFIG.format(judge=judge), arena="64MiB") as started:
        until(lambda: started.replicas_ready() == 2, 60, "both models are ready")
        yield started


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def theirs() -> Reference:
    return Reference(locate("catalog:all-minilm-l6-v2"))


def post(stack: Stack, path: str, **body: Any) -> httpx.Response:
    return httpx.post(stack.url + path, json=body, timeout=60)


def error(answer: httpx.Response) -> tuple[int, str, str]:
    told = answer.json()["error"]
    return answer.status_code, told["param"], told["code"]


def test_openais_client_gets_the_embeddings_of_sentence_transformers(client: openai.OpenAI, theirs: Reference) -> None:
    made = client.embeddings.create(model="minilm", input=TEXTS)  # base64, as it asks for by itself
    found = np.array([each.embedding for each in made.data], np.float32)
    assert [each.index for each in made.data] == list(range(len(TEXTS)))
    assert (found * theirs.encode(TEXTS)).sum(axis=1).min() >= 1 - 1e-6
    floats = client.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="float")
    np.testing.assert_allclose(floats.data[0].embedding, found[0], atol=1e-6)
    ids = theirs.tokenizer(TEXTS)["input_ids"]
    assert made.usage.prompt_tokens == sum(map(len, ids))
    same = client.embeddings.create(model="minilm", input=ids)
    np.testing.assert_allclose([each.embedding for each in same.data], found, atol=1e-6)


def test_documents_are_ranked_by_the_cross_encoder(stack: Stack, judge: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(judge).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(judge)
    query = "who sat on the mat?"
    with torch.inference_mode():
        scores = [float(model(**tokenizer(query, text, return_tensors="pt")).logits.sigmoid()) for text in TEXTS]
    documents = [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]]
    made = post(
        stack, "/v1/rerank", model="judge", query=query, documents=documents, top_n=3, return_documents=True
    ).json()
    order = sorted(range(len(TEXTS)), key=lambda index: -scores[index])[:3]
    assert [result["index"] for result in made["results"]] == order
    np.testing.assert_allclose([r["relevance_score"] for r in made["results"]], [scores[i] for i in order], atol=1e-5)
    assert [result["document"]["text"] for result in made["results"]] == [TEXTS[index] for index in order]
    with Client(run=stack.run) as zmq:
        assert [each.index for each in zmq.rerank(query, TEXTS, "judge", top_n=3)] == order


def test_the_zeromq_client_gets_the_same(stack: Stack, theirs: Reference) -> None:
    with Client(run=stack.run) as client:
        np.testing.assert_allclose(client.embed(TEXTS, "minilm"), theirs.encode(TEXTS), atol=1e-5)
        assert {model.id: model.kind for model in client.models()} == {"minilm": "embed", "judge": "rerank"}


def test_what_cannot_be_is_refused_by_name(stack: Stack) -> None:
    long = "word " * 300
    assert error(post(stack, "/v1/embeddings", model="minilm", input=["a", long])) == (
        400, "input[1]", "context_length_exceeded",
    )  # fmt: skip
    assert error(post(stack, "/v1/embeddings", model="minilm", input="a", dimensions=100))[1] == "dimensions"
    assert post(stack, "/v1/embeddings", model="minilm", input="a", dimensions=384).status_code == 200
    assert error(post(stack, "/v1/embeddings", model="minilm", input=["a"] * 2049))[1] == "input"
    assert error(post(stack, "/v1/embeddings", model="minilm", input=[[1, 40_000]]))[1] == "input[0]"
    assert error(post(stack, "/v1/embeddings", model="minilm", input=["a", [1]]))[1] == "input[1]"
    assert error(post(stack, "/v1/embeddings", model="minilm", input="a", colour=1))[2] == "unknown_parameter"
    assert error(post(stack, "/v1/embeddings", model="judge", input="a")) == (400, "model", "wrong_model_kind")
    assert error(post(stack, "/v1/rerank", model="minilm", query="a", documents=["b"]))[2] == "wrong_model_kind"
    chat = post(stack, "/v1/chat/completions", model="minilm", messages=[{"role": "user", "content": "x"}])
    assert error(chat) == (400, "model", "wrong_model_kind")
    assert error(post(stack, "/v1/completions", model="minilm", prompt="x"))[2] == "wrong_model_kind"


def test_texts_are_cut_where_that_is_asked_for(stack: Stack, theirs: Reference) -> None:
    long = "one two three four five six seven eight nine ten " * 40
    made = post(stack, "/v1/embeddings", model="minilm", input=long, truncate_prompt_tokens=-1).json()
    assert made["usage"]["prompt_tokens"] == 256
    assert np.dot(made["data"][0]["embedding"], theirs.encode(long)) >= 1 - 1e-6
    cut = post(stack, "/v1/embeddings", model="minilm", input=long, truncate_prompt_tokens=8, encoding_format="base64")
    vector = np.frombuffer(base64.b64decode(cut.json()["data"][0]["embedding"]), "<f4")
    assert np.dot(vector, theirs.encode("one two three four five six")) >= 1 - 1e-6
    ranked = post(stack, "/v1/rerank", model="judge", query="one", documents=[long], truncate_prompt_tokens=-1).json()
    assert ranked["usage"]["prompt_tokens"] == 64


@pytest.mark.parametrize("victim", ["worker@minilm.0.0", "scheduler@minilm"])
def test_a_call_that_was_taken_is_completed_whoever_dies(stack: Stack, theirs: Reference, victim: str) -> None:
    texts = [f"sentence number {n} about {'trains ' * (n % 40)}" for n in range(400)]  # more than the queue holds
    until(lambda: stack.replicas_ready() == 2, 60, "both models are ready")
    answers: list[httpx.Response] = []
    call = threading.Thread(
        target=lambda: answers.append(post(stack, "/v1/embeddings", model="minilm", input=texts)), daemon=True
    )
    call.start()
    running_now = lambda: any(m["running"] for m in stack.status()["models"] if m["name"] == "minilm")  # noqa: E731
    until(running_now, 30, "the call runs")
    stack.kill(victim)
    call.join(120)
    assert answers, stack.logs()
    assert answers[0].status_code == 200, answers[0].text
    found = np.array([each["embedding"] for each in answers[0].json()["data"]], np.float32)
    some = list(range(0, 400, 57))
    assert (found[some] * theirs.encode([texts[index] for index in some])).sum(axis=1).min() >= 1 - 1e-6


def test_what_was_used_is_one_record_a_call(stack: Stack) -> None:
    before = _usage(stack)
    tokens = post(stack, "/v1/embeddings", model="minilm", input=TEXTS * 30).json()["usage"]["prompt_tokens"]
    until(lambda: _usage(stack)[0] > before[0], 20, "the ledger has it")
    after = _usage(stack)
    assert (after[0] - before[0], after[1] - before[1]) == (1, tokens)


def test_status_and_models_say_what_it_is_for(stack: Stack) -> None:
    kinds = {model["name"]: model["kind"] for model in stack.status()["models"]}
    assert kinds == {"minilm": "embed", "judge": "rerank"}
    assert "minilm (embeddings): live, ready" in stack.headrace("status").stdout


def _usage(stack: Stack) -> tuple[int, int]:
    told = msgspec.json.decode(stack.headrace("usage", "--json").stdout)
    rows = [row for row in told["rows"] if row["group"] == "minilm"]
    return (rows[0]["requests"], rows[0]["prompt_tokens"]) if rows else (0, 0)
