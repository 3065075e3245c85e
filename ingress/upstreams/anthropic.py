"""Anthropic's messages, as an upstream speaks them: a call as a body, events as what they say. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from ingress.api.schema_chat import (
    AssistantMessage,
    ChatRequest,
    Content,
    DeveloperMessage,
    ImagePart,
    Message,
    RefusalPart,
    SchemaFormat,
    SystemMessage,
    TextPart,
    ToolMessage,
)
from ingress.errors import invalid_request
from ingress.streams import EndReason, Part
from ingress.tools.offered import Offered
from ingress.upstreams.asking import offer_of
from ingress.upstreams.calls import Calls
from ingress.upstreams.heard import NOTHING, Complaint, Counted, Garbage, Heard
from ingress.upstreams.openai import complaint
from ingress.upstreams.sse import Event

PATH: Final = "/messages"
VERSION: Final = "2023-06-01"
DEFAULT_LIMIT: Final = 4096  # its API asks for one; ours does not

_REASONS: Final[dict[str, EndReason]] = {"max_tokens": "length", "refusal": "content_filter"}
_MOST_STOPS: Final = 4


def headers(key: str) -> dict[str, str]:
    """That every call has."""
    return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


def body(chat: ChatRequest, served: str, limit: int | None) -> bytes:
    """A call, always as a stream.

    Args:
        served: what the upstream calls the model.
        limit: most tokens of the answer.

    Raises:
        ApiError: 400, it cannot be said in a message.
    """
    system = "\n\n".join(
        _text(message.content) for message in chat.messages if isinstance(message, (SystemMessage, DeveloperMessage))
    )
    said: dict[str, Any] = {
        "model": served,
        "max_tokens": DEFAULT_LIMIT if limit is None else limit,
        "messages": list(_turns(chat.messages)),
        "stream": True,
    }
    if not said["messages"]:
        raise invalid_request("A message of a user is needed.", param="messages")
    if system:
        said["system"] = system
    if chat.stop_strings:
        said["stop_sequences"] = list(chat.stop_strings[:_MOST_STOPS])
    if len(chat.stop_strings) > _MOST_STOPS:
        raise invalid_request(f"stop: this model takes at most {_MOST_STOPS}.", param="stop")
    if chat.temperature is not None:
        if chat.temperature > 1:
            raise invalid_request("temperature: this model takes at most 1.", param="temperature")
        said["temperature"] = chat.temperature
    if chat.top_p is not None:
        said["top_p"] = chat.top_p
    if chat.top_k is not None and chat.top_k > 0:
        said["top_k"] = chat.top_k
    if (offer := offer_of(chat)) is not None:
        said |= _offer(offer, parallel=chat.parallel_tool_calls)
    if isinstance(chat.response_format, SchemaFormat):
        schema = chat.response_format.json_schema.schema or {"type": "object"}
        said["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return msgspec.json.encode(said)


def _offer(offer: Offered, *, parallel: bool | None) -> dict[str, Any]:
    """Tools, and how they are to be chosen from, in Anthropic's words."""
    tools = [
        {"name": tool.name, "input_schema": tool.parameters}
        | ({"description": tool.description} if tool.description is not None else {})
        | ({"strict": True} if tool.strict else {})
        for tool in offer.tools
    ]
    choice: dict[str, Any] = {"type": "auto" if offer.mode == "auto" else "any"}
    if offer.named:
        choice = {"type": "tool", "name": offer.named}
    if parallel is False:
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools} if choice == {"type": "auto"} else {"tools": tools, "tool_choice": choice}


def _turns(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """Turns of user and assistant, those of one role in a row as one."""
    role, blocks = "", list[dict[str, Any]]()
    for message in messages:
        if isinstance(message, (SystemMessage, DeveloperMessage)):
            continue
        whose = "assistant" if isinstance(message, AssistantMessage) else "user"
        if whose != role and blocks:
            yield {"role": role, "content": blocks}
            blocks = []
        role = whose
        blocks += _blocks(message)
    if blocks:
        yield {"role": role, "content": blocks}


def _blocks(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, ToolMessage):
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": _text(message.content)}]
    blocks = [_block(part) for part in _content(message.content)]
    if isinstance(message, AssistantMessage):
        for call in message.tool_calls or ():
            try:
                given = msgspec.json.decode(call.function.arguments)
            except msgspec.DecodeError:
                raise invalid_request("The arguments of a tool call are not JSON.", param="messages") from None
            blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": given})
    return blocks


def _content(content: Content | None) -> list[Any]:
    if isinstance(content, str):
        return [TextPart(content)] if content else []
    return list(content or ())


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        url = part.image_url.get("url") if isinstance(part.image_url, dict) else part.image_url
        if not isinstance(url, str):
            raise invalid_request("An image needs a url.", param="messages")
        kind, found, data = url.partition(";base64,")
        if not found:
            return {"type": "image", "source": {"type": "url", "url": url}}
        source = {"type": "base64", "media_type": kind.removeprefix("data:"), "data": data}
        return {"type": "image", "source": source}
    if isinstance(part, (TextPart, RefusalPart)):
        return {"type": "text", "text": part.text if isinstance(part, TextPart) else part.refusal}
    raise invalid_request("Text and images only can be passed on to this model.", param="messages")


def _text(content: Content | None) -> str:
    return "\n".join(str(_block(part).get("text", "")) for part in _content(content))


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Block(msgspec.Struct):
    type: str = ""
    name: str | None = None
    input: Any = None
    text: str | None = None
    thinking: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode


class Reader:
    """The events of one answer. Its account comes in two parts: the prompt's at the beginning, the answer's at its
    end.

    Args:
        tools: names of those that it may call.
    """

    def __init__(self, tools: Collection[str] = ()) -> None:
        self._calls = Calls(tools)
        self._called: _Block | None = None  # a call that has begun, of which no arguments have come
        self._prompt: int | None = None
        self._cached: int | None = None

    def read(self, event: Event) -> Heard:
        """What one says.

        Raises:
            Garbage: nothing that an answer has.
            Complaint: that it cannot go on.
        """
        try:
            told = _decode(event.data)
        except (msgspec.DecodeError, RecursionError):
            raise Garbage("an event of its stream is none of a message") from None
        match told.type:
            case "error":
                raise complaint(told.error)
            case "message_start":
                self._count(told.message.usage if told.message is not None else None)
            case "content_block_start" if told.content_block is not None:
                block = told.content_block
                if block.type == "server_tool_use":
                    raise Garbage("it uses a tool of its own, and was given none")
                if block.type == "tool_use":
                    self._called = block
                    return Heard((self._calls.take(told.index, block.name or "", ""),))
                return _said(block.text, block.thinking)
            case "content_block_delta" if told.delta is not None and told.delta.type == "input_json_delta":
                if not told.delta.partial_json:
                    return NOTHING  # the first one mostly is empty
                self._called = None
                return Heard((self._calls.take(told.index, "", told.delta.partial_json),))
            case "content_block_stop" if self._called is not None:
                # Nothing was said of what it is called with but here.
                given, self._called = self._called.input, None
                arguments = msgspec.json.encode(given if isinstance(given, dict) else {}).decode()
                return Heard((self._calls.take(told.index, "", arguments),))
            case "content_block_delta" if told.delta is not None:
                return _said(told.delta.text, told.delta.thinking)
            case "message_delta" if told.delta is not None:
                self._count(told.usage)
                answered = told.usage.output_tokens if told.usage is not None else None
                reason = told.delta.stop_reason
                return Heard(
                    reason=None if reason is None else _REASONS.get(reason, "stop"),
                    stop=told.delta.stop_sequence,
                    counted=Counted(self._prompt, answered, self._cached),
                )
            case "message_stop":
                return Heard(over=True)
        return NOTHING  # pings, ends of blocks, and what is new since

    def _count(self, usage: _Usage | None) -> None:
        """Its `input_tokens` are those that were not found in its cache; ours are all."""
        if usage is not None and usage.input_tokens is not None:
            self._cached = usage.cache_read_input_tokens or 0
            self._prompt = usage.input_tokens + self._cached + (usage.cache_creation_input_tokens or 0)


def _said(text: str | None, thinking: str | None) -> Heard:
    parts = [Part("reasoning", thinking)] if thinking else []
    return Heard(tuple(parts + ([Part("text", text)] if text else [])))


__all__ = ["PATH", "Complaint", "Reader", "body", "headers"]
