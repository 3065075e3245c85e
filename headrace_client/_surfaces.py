"""Events and bodies of Responses and messages as those of chats, which is what callers are given. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from bus.messages.clients import Operation
from headrace_client._answers import Answer, Choice, Chunk, ChunkChoice, Delta, Usage, chat_answer, chat_chunk

_FINISH: Final = {"max_tokens": "length"}  # of messages; everything else is "stop"


def chunk(operation: Operation) -> Callable[[bytes], Chunk]:
    """How an operation's events are read."""
    return {"responses": _response_event, "messages": _message_event}.get(operation, chat_chunk)


def answer(operation: Operation, body: bytes) -> Answer:
    """The answer of a call that does not stream."""
    return {"responses": _response, "messages": _message}.get(operation, chat_answer)(body)


def _response_event(body: bytes) -> Chunk:
    event: dict[str, Any] = msgspec.json.decode(body)
    match event["type"]:
        case "response.output_text.delta":
            return _said(Delta(content=event["delta"]))
        case "response.reasoning_text.delta":
            return _said(Delta(reasoning_content=event["delta"]))
        case "response.completed" | "response.incomplete":
            told = event["response"]
            return Chunk(told["id"], [ChunkChoice(0, finish_reason=_response_finish(told))], _response_usage(told))
        case _:
            return Chunk(event.get("response", {}).get("id", ""), [])


def _response(body: bytes) -> Answer:
    told: dict[str, Any] = msgspec.json.decode(body)
    parts = [part for item in told["output"] if item["type"] == "message" for part in item["content"]]
    text = "".join(part.get("text", "") for part in parts)
    thoughts = [part for item in told["output"] if item["type"] == "reasoning" for part in item["content"]]
    thought = "".join(part.get("text", "") for part in thoughts)
    choice = Choice(0, text, _response_finish(told), reasoning=thought)
    return Answer(told["id"], told["model"], [choice], _response_usage(told) or Usage(), told)


def _response_finish(told: dict[str, Any]) -> str | None:
    if told["status"] == "completed":
        return "stop"
    details = told.get("incomplete_details") or {}
    return "length" if details.get("reason") == "max_output_tokens" else None


def _response_usage(told: dict[str, Any]) -> Usage | None:
    usage = told.get("usage")
    if usage is None:
        return None
    return Usage(
        usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], usage["input_tokens_details"],
        usage["output_tokens_details"],
    )  # fmt: skip


def _message_event(body: bytes) -> Chunk:
    event: dict[str, Any] = msgspec.json.decode(body)
    match event["type"]:
        case "message_start":
            return Chunk(event["message"]["id"], [])
        case "content_block_delta":
            delta = event["delta"]
            return _said(Delta(delta.get("text"), delta.get("thinking")))
        case "message_delta":
            reason, sequence = event["delta"]["stop_reason"], event["delta"]["stop_sequence"]
            choice = ChunkChoice(0, finish_reason=_FINISH.get(reason, "stop"), stop_reason=sequence)
            return Chunk("", [choice], _message_usage(event["usage"]))
        case _:
            return Chunk("", [])


def _message(body: bytes) -> Answer:
    told: dict[str, Any] = msgspec.json.decode(body)
    text = "".join(block.get("text", "") for block in told["content"])
    thought = "".join(block.get("thinking", "") for block in told["content"])
    choice = Choice(0, text, _FINISH.get(told["stop_reason"], "stop"), told["stop_sequence"], reasoning=thought)
    return Answer(told["id"], told["model"], [choice], _message_usage(told["usage"]), told)


def _message_usage(usage: dict[str, Any]) -> Usage:
    cached = usage["cache_read_input_tokens"]
    prompt, completion = usage["input_tokens"] + cached, usage["output_tokens"]
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    return Usage(
        prompt, completion, prompt + completion, {"cached_tokens": cached}, {"reasoning_tokens": thought}
    )  # fmt: skip


def _said(delta: Delta) -> Chunk:
    return Chunk("", [ChunkChoice(0, delta)])
