"""OpenAI's chat completions, as an upstream speaks them: a call as a body, events as what they say. Pure.

Read by struct, and leniently: servers add fields of their own, and leave out what they think is optional.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from ingress.api.schema_chat import ChatRequest
from ingress.job import Job
from ingress.streams import EndReason, Part, TokenText
from ingress.upstreams.asking import offer_of
from ingress.upstreams.calls import Calls
from ingress.upstreams.heard import NOTHING, Complaint, Counted, Garbage, Heard
from ingress.upstreams.sse import Event

PATH: Final = "/chat/completions"

# Passed on as they were given.
_ALIKE: Final = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "stop",
    "reasoning_effort", "top_k", "min_p", "repetition_penalty", "min_tokens",
)  # fmt: skip
_OF_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")
_REASONS: Final[dict[str, EndReason]] = {"length": "length", "content_filter": "content_filter"}
_NO_TOKEN: Final = 0  # ids of an upstream's tokens are not told, and nobody asks for them


def headers(key: str) -> dict[str, str]:
    """That every call has."""
    return {"authorization": f"Bearer {key}"} if key else {}


def body(chat: ChatRequest, served: str, job: Job, margins: int = 0) -> bytes:
    """A call, always as a stream: only in one are a slow answer and none told apart.

    Args:
        served: what the upstream calls the model.
        job: which of the call's samples.
        margins: alternatives per token that are wanted here, whatever the caller wants.
    """
    said: dict[str, Any] = {
        "model": served,
        "messages": [_message(message) for message in chat.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if (limit := job.max_tokens) is not None:
        # The older name: every server of the field knows it. OpenAI's reasoning models take the newer one only.
        said["max_completion_tokens" if chat.reasoning_effort else "max_tokens"] = limit
    said |= {name: value for name in _ALIKE if (value := getattr(chat, name)) is not None}
    if chat.seed is not None:
        seed = job.sampling.seed  # its own: all samples of a call would be the same with the call's
        said["seed"] = seed - 2**64 if seed >= 2**63 else seed
    if chat.response_format is not None:
        said["response_format"] = _format(chat.response_format)
    if offer_of(chat) is not None:
        said |= {name: value for name in _OF_TOOLS if (value := getattr(chat, name)) is not None}
    if margins or job.sampling.logprobs >= 0:
        alternatives = max(margins, job.sampling.logprobs)
        said |= {"logprobs": True} | ({"top_logprobs": alternatives} if alternatives > 0 else {})
    return msgspec.json.encode(said)


def _format(wanted: msgspec.Struct) -> dict[str, Any]:
    """As it was given: what was not said is not said as null either. What is null in a schema stays."""
    plain: dict[str, Any] = msgspec.to_builtins(wanted)
    if (named := plain.get("json_schema")) is not None:
        plain["json_schema"] = {name: value for name, value in named.items() if value is not None}
    return plain


def _message(message: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(message)
    told = {name: value for name, value in plain.items() if value is not None}
    for name in ("reasoning_content", "annotations", "refusal"):  # an earlier answer's, which no server asks for
        if told.get("role") == "assistant" and "content" in told:
            told.pop(name, None)
    return told


class _Top(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class _Token(_Top):
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class Reader:
    """The events of one answer.

    Args:
        tools: names of those that it may call.
    """

    def __init__(self, tools: Collection[str] = ()) -> None:
        self._calls = Calls(tools)

    def read(self, event: Event) -> Heard:
        """What one says.

        Raises:
            Garbage: nothing that an answer has.
            Complaint: that it cannot go on.
        """
        if event.data.strip() == "[DONE]":
            return Heard(over=True)
        try:
            chunk = _decode(event.data)
        except (msgspec.DecodeError, RecursionError):
            raise Garbage("an event of its stream is no chunk of a chat completion") from None
        if chunk.error is not None or event.type == "error":
            raise complaint(chunk.error)
        choice = chunk.choices[0] if chunk.choices else None
        if choice is not None and choice.index != 0:
            raise Garbage("it answers with more choices than it was asked for")
        counted = _counted(chunk.usage) if chunk.usage is not None else None
        if choice is None:
            return NOTHING if counted is None else Heard(counted=counted)
        delta = choice.delta or _Delta()
        reason = choice.finish_reason
        return Heard(
            parts=(*_parts(delta), *self._called(delta.tool_calls or ())),
            logprobs=_tokens(choice.logprobs),
            reason=None if reason is None else _REASONS.get(reason, "stop"),
            stop=choice.stop_reason if isinstance(choice.stop_reason, str) else None,
            counted=counted,
        )

    def _called(self, calls: Sequence[_Call]) -> Iterator[Part]:
        for call in calls:
            function = call.function or _Function()
            yield self._calls.take(call.index, function.name or "", function.arguments or "")


def complaint(error: Any) -> Complaint:
    """From the error object of a stream, whatever it is."""
    told = error if isinstance(error, dict) else {"message": error}
    kind = next((each for each in (told.get("code"), told.get("type")) if isinstance(each, str) and each), "error")
    message = told.get("message")
    return Complaint(kind[:64], message[:500] if isinstance(message, str) else "")


def _parts(delta: _Delta) -> list[Part]:
    reasoning = delta.reasoning_content or delta.reasoning
    said = (("reasoning", reasoning), ("text", delta.content), ("refusal", delta.refusal))
    return [Part(kind, text) for kind, text in said if text]  # type: ignore[arg-type]


def _tokens(logprobs: _Logprobs | None) -> tuple[TokenText, ...]:
    if logprobs is None or not logprobs.content:
        return ()
    return tuple(
        TokenText(
            _NO_TOKEN, _bytes(token), token.logprob,
            tuple((_NO_TOKEN, _bytes(top), top.logprob) for top in token.top_logprobs or ()),
        )
        for token in logprobs.content
    )  # fmt: skip


def _bytes(token: _Top) -> bytes:
    try:
        return bytes(token.bytes) if token.bytes is not None else token.token.encode()
    except ValueError:
        raise Garbage("the bytes of a token are none") from None


def _counted(usage: _Usage) -> Counted:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Counted(
        usage.prompt_tokens,
        usage.completion_tokens,
        prompt.cached_tokens if prompt is not None else None,
        completion.reasoning_tokens if completion is not None else None,
    )
