"""Text, thoughts and refusals on every surface: however the pieces are cut, events add up to the whole answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from ingress.api.answer import Head
from ingress.api.jobs import Plan, Prompt
from ingress.api.render_chat import ChatRenderer
from ingress.api.render_messages import MessagesRenderer
from ingress.api.render_responses import ResponsesRenderer
from ingress.api.schema_chat import ChatRequest, UserMessage
from ingress.api.schema_responses import ResponsesRequest
from ingress.drawing import Drawing
from ingress.streams import Finish, Part, Piece, Usage, joined, merge

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "openai_schema" / "schemas.json").read_text())
EVENT = jsonschema.Draft202012Validator({"$ref": "#/schemas/ResponseStreamEvent", "schemas": PUBLISHED["schemas"]})
PLAN = Plan([Prompt(None, [1, 2, 3])], [], 1)
HEAD = Head("resp_0123456789abcdef", 1, "m", "fp_1")

TEXT = st.text(st.sampled_from('ab "\\\né😀'), min_size=1, max_size=4)
# As a model that thinks, answers, and is stopped by a guard does it.
PARTS = st.tuples(
    st.lists(TEXT.map(lambda text: Part("reasoning", text)), max_size=3),
    st.lists(TEXT.map(lambda text: Part("text", text)), max_size=3),
    st.lists(TEXT.map(lambda text: Part("refusal", text)), max_size=1),
).map(lambda groups: [part for group in groups for part in group])


def pieces(parts: list[Part], size: int, reason: Any = "stop") -> list[Piece]:
    """So many parts to a piece; the last has the end."""
    groups = [joined(parts[at : at + size]) for at in range(0, len(parts), size)]
    cut = [
        Piece("".join(part.text for part in group if part.kind == "text"), (1,), parts=group)
        if any(part.kind != "text" for part in group)
        else Piece("".join(part.text for part in group), (1,))
        for group in groups
    ]
    return [*cut, Piece(finish=Finish(reason, Usage(3, 9, 1, 2)))]


def of_kind(parts: list[Part], kind: str) -> str:
    return "".join(part.text for part in parts if part.kind == kind)


@given(PARTS, st.integers(1, 3))
def test_chats(parts: list[Part], size: int) -> None:
    def renderer() -> ChatRenderer:
        return ChatRenderer(HEAD, ChatRequest(model="m", messages=[UserMessage("x")], stream=True), PLAN)

    streamed, told = renderer(), pieces(parts, size)
    deltas = [json.loads(chunk)["choices"][0]["delta"] for piece in told for chunk in streamed.piece(0, piece, ())]
    message = json.loads(renderer().whole([merge(told)], [[]]))["choices"][0]["message"]
    for kind, key in (("text", "content"), ("reasoning", "reasoning_content"), ("refusal", "refusal")):
        assert "".join(delta.get(key) or "" for delta in deltas) == of_kind(parts, kind) == (message.get(key) or "")


@given(PARTS, st.integers(1, 3), st.sampled_from(["stop", "length"]))
def test_responses(parts: list[Part], size: int, reason: str) -> None:
    def renderer() -> ResponsesRenderer:
        return ResponsesRenderer(HEAD, ResponsesRequest(model="m", input="x", store=False), Drawing())

    streamed, told = renderer(), pieces(parts, size, reason)
    events = [json.loads(event) for event in streamed.first()]
    events += [json.loads(event) for piece in told for event in streamed.piece(0, piece, ())]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate(event)
    whole = json.loads(renderer().whole([merge(told)], [[]]))
    assert events[-1]["response"] == whole
    assert whole["status"] == ("completed" if reason == "stop" else "incomplete")
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    content = [part for item in whole["output"] for part in item["content"]]
    for kind, name in (("text", "output_text"), ("reasoning", "reasoning_text"), ("refusal", "refusal")):
        said = "".join(event["delta"] for event in events if event["type"] == f"response.{name}.delta")
        assert said == of_kind(parts, kind)
        assert said == "".join(part.get("refusal", part.get("text")) for part in content if part["type"] == name)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == whole["output"]
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [item["id"] for item in whole["output"]]


@given(PARTS, st.integers(1, 3))
def test_messages(parts: list[Part], size: int) -> None:
    streamed, told = MessagesRenderer(HEAD, PLAN), pieces(parts, size)
    events = [json.loads(event) for event in streamed.first()]
    events += [json.loads(event) for piece in told for event in streamed.piece(0, piece, ())]
    blocks: list[dict[str, Any]] = []
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
            case "content_block_delta":
                (key,) = set(event["delta"]) - {"type"}
                blocks[event["index"]][key] += event["delta"][key]
    whole = json.loads(MessagesRenderer(HEAD, PLAN).whole([merge(told)], [[]]))
    assert blocks == whole["content"]
    assert events[-1] == {"type": "message_stop"}
    assert events[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
    assert (whole["usage"]["input_tokens"], whole["usage"]["cache_read_input_tokens"]) == (2, 1)
