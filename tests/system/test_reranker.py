"""`/v1/rerank` with a cross-encoder that was trained, where one is given: `HEADRACE_RERANKER` names its directory.

It was tried with ms-marco-MiniLM-L-12-v2, out of `tests/workers/reference/onnx_bert.py`. What the score of a random one
is, for every family, is in `tests/workers/test_encoding_families.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import transformers
from stack import Stack, running, until

GIVEN = os.environ.get("HEADRACE_RERANKER", "")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not GIVEN, reason="HEADRACE_RERANKER names no directory of a cross-encoder"),
]

CONFIG = '[[model]]\nname = "judge"\nsource = "path:{}"\n'
# The question's answer, something near it, and something else; in no order.
ASKED = {
    "How many people live in Berlin?": (
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
        "Berlin is well known for its museums.",
        "The quick brown fox jumps over the lazy dog.",
    ),
    "how do I undo the last commit in git": (
        "`git reset --soft HEAD~1` takes the last commit back and keeps its changes staged.",
        "Git is a distributed version control system.",
        "Preheat the oven to 180 °C and butter a tin.",
    ),
    "what causes tides": (
        "Tides are caused by the gravitational pull of the moon and the sun on the oceans.",
        "The Bay of Fundy is visited for its tides by 300,000 people a year.",
        "naïve café – 数学 😀",
    ),
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(CONFIG.format(Path(GIVEN).resolve()), arena="64MiB") as started:
        until(lambda: started.replicas_ready() == 1, 120, "it is ready")
        yield started


class Reference:
    """transformers, one pair at a time: nothing is padded."""

    def __init__(self) -> None:
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(GIVEN, dtype=torch.float32).eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(GIVEN)
        self._sigmoid = "Identity" not in str(self._model.config.to_dict())

    def scores(self, query: str, documents: list[str]) -> list[float]:
        found = []
        for text in documents:
            pair = self._tokenizer(query, text, truncation="only_second", max_length=512, return_tensors="pt")
            with torch.inference_mode():
                logit = self._model(**pair).logits[0, 0]
            found.append(float(logit.sigmoid() if self._sigmoid else logit))
        return found


def rerank(stack: Stack, query: str, documents: list[str], **more: int) -> list[tuple[int, float]]:
    body = {"model": "judge", "query": query, "documents": documents, **more}
    reply = httpx.post(f"{stack.url}/v1/rerank", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return [(result["index"], result["relevance_score"]) for result in reply.json()["results"]]


def test_scores_and_order_are_those_of_transformers(stack: Stack) -> None:
    theirs = Reference()
    everything = [text for texts in ASKED.values() for text in texts]
    for query, (right, near, _) in ASKED.items():
        found = rerank(stack, query, everything)
        wanted = theirs.scores(query, everything)
        assert [index for index, _ in found] == sorted(range(len(everything)), key=lambda index: -wanted[index])
        np.testing.assert_allclose([score for _, score in found], sorted(wanted, reverse=True), atol=1e-4)
        assert everything[found[0][0]] == right
        assert everything[found[1][0]] == near


def test_a_document_that_is_too_long_is_cut_as_theirs_is(stack: Stack) -> None:
    query, (right, *_) = next(iter(ASKED.items()))
    long = f"{right} " * 60
    [(_, score)] = rerank(stack, query, [long], truncate_prompt_tokens=-1)
    assert score == pytest.approx(Reference().scores(query, [long])[0], abs=1e-4)
