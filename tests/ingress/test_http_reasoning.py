"""Thoughts over HTTP and ZeroMQ, on every surface: told apart, counted, and bounded in what schedulers are asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_stage import Stage, staged

from bus.messages.requests import Thought
from bus.packed import unpack_u32
from bus.vocabulary import read
from headrace_client import BadRequest, Client

pytestmark = pytest.mark.system

THOUGHT, SAID = "Hm, a greeting.", "Hello."
TEXT = f"<r>\n{THOUGHT}\n</r>\n\n{SAID}"
# The tiny tokeniser's tokens are bytes: all up to the mark that closes, but what comes before the first one is whole.
THOUGHT_TOKENS = len(f"<r>\n{THOUGHT}\n</r>") - len("<r>") + 1
TABLES = '[model.reasoning]\ntags = ["<r>", "</r>"]\nclosing = "\\nEnough.\\n</r>\\n"\nefforts = {minimal = 3}\n'
ASK: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(tables=TABLES, text=TEXT) as stage:
        yield stage
        assert "Traceback" not in stage.logs()


def post(stage: Stage, path: str, **body: Any) -> dict[str, Any]:
    reply = httpx.post(stage.url + path, json={"model": "m", "seed": 0, **body}, timeout=60)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def asked(stage: Stage) -> Thought | None:
    """What the scheduler was told last."""
    return stage.player.submits[-1].sampling.thought


def test_chats(stage: Stage) -> None:
    answer = post(stage, "/v1/chat/completions", messages=ASK, thinking_token_budget=5)
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"].strip(), message["content"]) == (THOUGHT, SAID)
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": THOUGHT_TOKENS}
    thought = asked(stage)
    assert thought is not None
    assert (thought.budget, thought.opens, thought.closes) == (5, "<r>", "</r>")
    tokens = read(stage.run, thought.vocabulary).tokens
    assert b"".join(tokens[token] for token in unpack_u32(thought.closing).tolist()) == b"\nEnough.\n</r>\n"


def test_a_thought_that_the_prompt_has_begun(stage: Stage) -> None:
    post(stage, "/v1/chat/completions", messages=[*ASK, {"role": "assistant", "content": "<r>\n"}],
         continue_final_message=True, thinking_token_budget=5)  # fmt: skip
    assert asked(stage) is not None
    assert asked(stage).opens == ""  # type: ignore[union-attr]
    over = [*ASK, {"role": "assistant", "content": "<r>x</r>"}]
    answer = post(stage, "/v1/chat/completions", messages=over, continue_final_message=True, thinking_token_budget=5)
    assert asked(stage) is None
    assert "reasoning_content" not in answer["choices"][0]["message"]


@pytest.mark.parametrize(
    ("effort", "budget"), [(None, None), ("none", 0), ("minimal", 3), ("low", 2048), ("medium", 8192), ("high", None)]
)
def test_efforts_on_every_surface(stage: Stage, effort: str | None, budget: int | None) -> None:
    def bound() -> int | None:
        thought = asked(stage)
        return None if thought is None else thought.budget

    post(stage, "/v1/chat/completions", messages=ASK, reasoning_effort=effort)
    assert bound() == budget
    answer = post(stage, "/v1/responses", input="hi", store=False, reasoning={"effort": effort})
    assert bound() == budget
    assert answer["reasoning"] == {"effort": effort, "summary": None}
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
    if effort in ("low", "medium", "high"):
        post(stage, "/v1/messages", messages=ASK, max_tokens=99, output_config={"effort": effort})
        assert bound() == budget


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [({"type": "enabled", "budget_tokens": 7}, 7), ({"type": "disabled"}, 0), ({"type": "adaptive"}, None)],
)
def test_messages(stage: Stage, thinking: dict[str, Any], budget: int | None) -> None:
    answer = post(stage, "/v1/messages", messages=ASK, max_tokens=99, thinking=thinking)
    thought = asked(stage)
    assert (None if thought is None else thought.budget) == budget
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": THOUGHT_TOKENS}
    post(stage, "/v1/messages/count_tokens", messages=ASK, thinking=thinking, seed=None)


def test_the_client(stage: Stage) -> None:
    with Client(run=stage.run, timeout=60) as client:
        for answer in (
            client.chat("hi", thinking_token_budget=9),
            client.respond("hi", thinking_token_budget=9, store=False),
            client.message("hi", max_tokens=99, thinking={"type": "enabled", "budget_tokens": 9}),
        ):
            assert (answer.reasoning.strip(), answer.text) == (THOUGHT, SAID)
            assert answer.usage.reasoning_tokens == THOUGHT_TOKENS
            assert asked(stage).budget == 9  # type: ignore[union-attr]
        with client.chat("hi", stream=True) as stream:
            pieces = list(stream)
        assert "".join(piece.reasoning for piece in pieces).strip() == THOUGHT
        assert "".join(piece.text for piece in pieces) == SAID
        assert stream.usage is not None
        assert stream.usage.reasoning_tokens == THOUGHT_TOKENS
        with pytest.raises(BadRequest) as refused:
            client.chat("hi", thinking_budget=9)
        assert refused.value.param == "thinking_budget"


def test_a_cached_answer_is_one_of_the_same_budget(stage: Stage) -> None:
    asks = [{"messages": ASK, "temperature": 0, "thinking_token_budget": budget} for budget in (5, 6, 5)]
    before = len(stage.player.submits)
    for body in asks:
        post(stage, "/v1/chat/completions", **body)
    assert len(stage.player.submits) - before <= len(asks)
    assert {submit.sampling.thought.budget for submit in stage.player.submits[before:] if submit.sampling.thought} == {
        5, 6,
    }  # fmt: skip
