"""What is served over HTTP: one table, from which requests are dispatched and the OpenAPI document is written."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from bus.messages.clients import Operation
from ingress.api.schema_chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from ingress.api.schema_completion import Completion, CompletionRequest
from ingress.api.schema_encoding import EmbeddingList, EmbeddingRequest, Reranking, RerankRequest
from ingress.api.schema_other import (
    DetokenizeReply,
    DetokenizeRequest,
    Health,
    ModelCard,
    ModelList,
    Progress,
    Readiness,
    TokenizeReply,
    TokenizeRequest,
)

# What a front does by itself, beside the pipeline's operations.
Own = Literal["health", "metrics", "openapi", "model", "stream"]


class Route(NamedTuple):
    """One method of one path.

    Attributes:
        path: with its last part in braces where that is a parameter.
        does: an operation of the pipeline, or something of the front's own.
        request, reply: types of the bodies; None where there is none, or it is not JSON.
        chunk: type of an event's data, where the answer may be a stream.
        errors: statuses it may answer with beside 200.
    """

    method: Literal["GET", "POST"]
    path: str
    does: Operation | Own
    summary: str
    request: type | None = None
    reply: type | None = None
    chunk: type | None = None
    media: str = "application/json"
    errors: tuple[int, ...] = ()


_GENERATION = (400, 404, 408, 413, 429, 500, 503)
_BODY = (400, 404, 408, 413, 500)

ROUTES: Final = (
    Route("GET", "/v1/models", "models", "List the served models.", reply=ModelList),
    Route("GET", "/v1/models/{model}", "model", "One served model.", reply=ModelCard, errors=(404,)),
    Route(
        "POST",
        "/v1/chat/completions",
        "chat.completions",
        "Answer a conversation.",
        ChatRequest,
        ChatCompletion,
        ChatCompletionChunk,
        errors=_GENERATION,
    ),
    Route(
        "POST",
        "/v1/completions",
        "completions",
        "Continue a text.",
        CompletionRequest,
        Completion,
        Completion,
        errors=_GENERATION,
    ),
    Route(
        "POST", "/v1/embeddings", "embeddings", "Embeddings of texts.", EmbeddingRequest, EmbeddingList,
        errors=_GENERATION,
    ),
    Route(
        "POST", "/v1/rerank", "rerank", "Documents in the order of what they have to do with a query.", RerankRequest,
        Reranking, errors=_GENERATION,
    ),
    Route(
        "GET",
        "/v1/streams/{response_id}",
        "stream",
        "Go on with a stream from the event after `Last-Event-ID`, or from its beginning.",
        media="text/event-stream",
        errors=(400, 404),
    ),
    Route(
        "POST", "/tokenize", "tokenize", "Token ids of a text or of messages.", TokenizeRequest, TokenizeReply,
        errors=_BODY,
    ),
    Route(
        "POST", "/detokenize", "detokenize", "The text of token ids.", DetokenizeRequest, DetokenizeReply, errors=_BODY
    ),
    Route("GET", "/health", "health", "Whether this process is alive.", reply=Health),
    Route("GET", "/ready", "ready", "Whether every configured model can answer.", reply=Readiness, errors=(503,)),
    Route(
        "GET", "/progress", "progress", "Whether the work of every model gets on; one that has none does.",
        reply=Progress, errors=(503,),
    ),
    Route("GET", "/metrics", "metrics", "Metrics of the host, for Prometheus.", media="text/plain", errors=(503,)),
    Route("GET", "/openapi.json", "openapi", "This description.", reply=dict),
)  # fmt: skip


class Match(NamedTuple):
    """The routes of a path by method, and its parameter."""

    methods: dict[str, Route]
    parameter: str


def _tables() -> tuple[dict[str, dict[str, Route]], dict[str, dict[str, Route]]]:
    exact: dict[str, dict[str, Route]] = {}
    prefixed: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        head, brace, _ = route.path.partition("{")
        (prefixed if brace else exact).setdefault(head, {})[route.method] = route
    return exact, prefixed


_EXACT, _PREFIXED = _tables()


def match(path: str) -> Match | None:
    """The routes of a path, or None."""
    if (methods := _EXACT.get(path)) is not None:
        return Match(methods, "")
    head, _, parameter = path.rpartition("/")
    if parameter and (methods := _PREFIXED.get(head + "/")) is not None:
        return Match(methods, parameter)
    return None
