"""What is said for each method: bodies from arguments. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Messages = str | Sequence[Mapping[str, Any]]
Input = str | Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


def chat(messages: Messages, model: str, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    """The body of a chat completion; a text alone is what the user says."""
    return _generation({"messages": _turns(messages)}, model, stream, parameters)


def completion(prompt: Prompt, model: str, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    """The body of a completion."""
    return _generation({"prompt": prompt if isinstance(prompt, str) else list(prompt)}, model, stream, parameters)


def response(given: Input, model: str, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    """The body of a response."""
    return _other({"input": given if isinstance(given, str) else list(given)}, model, stream, parameters)


def message(messages: Messages, model: str, max_tokens: int, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    """The body of a message."""
    return _other({"messages": _turns(messages), "max_tokens": max_tokens}, model, stream, parameters)


def count(messages: Messages, model: str, parameters: Mapping[str, Any]) -> bytes:
    """The body of a count of a message's tokens."""
    return encode({"model": model, "messages": _turns(messages), **parameters})


def kept(response_id: str) -> bytes:
    """Which kept response is meant."""
    return encode({"response_id": response_id})


def tokenize(text: Messages, model: str) -> bytes:
    """The body of `tokenize`, for a text or for messages."""
    return encode({"model": model, "prompt": text} if isinstance(text, str) else {"model": model, "messages": text})


def detokenize(tokens: Sequence[int], model: str) -> bytes:
    """The body of `detokenize`."""
    return encode({"model": model, "tokens": list(tokens)})


def embedding(texts: str | Sequence[str], model: str, dimensions: int | None) -> bytes:
    """The body of `embeddings`."""
    given = texts if isinstance(texts, str) else list(texts)
    return encode({"model": model, "input": given, **({"dimensions": dimensions} if dimensions is not None else {})})


def rerank(query: str, documents: Sequence[str], model: str, top_n: int | None) -> bytes:
    """The body of `rerank`."""
    body: dict[str, Any] = {"model": model, "query": query, "documents": list(documents)}
    return encode(body if top_n is None else {**body, "top_n": top_n})


def encode(value: Mapping[str, Any]) -> bytes:
    """JSON."""
    return msgspec.json.encode(value)


def _generation(what: dict[str, Any], model: str, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    options = {"stream_options": {"include_usage": True, **parameters.get("stream_options", {})}} if stream else {}
    return _other(what, model, stream, {**parameters, **options})


def _other(what: dict[str, Any], model: str, stream: bool, parameters: Mapping[str, Any]) -> bytes:
    body = {"model": model, **what, **{name: value for name, value in parameters.items() if value is not None}}
    # The client chooses the seed, so that an answer whose server is lost can be begun again and come out the same.
    body.setdefault("seed", secrets.randbits(62))
    if stream:
        body["stream"] = True
    return encode(body)


def _turns(messages: Messages) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
